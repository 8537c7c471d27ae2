"""What Linux tells of ARM cores: their kinds, and the instruction sets that kernels depend on."""

import re
import struct
from collections import Counter

__all__ = ["arm_features", "core_names"]

# The bits of the kernel's arch/arm64/include/uapi/asm/hwcap.h, in two words of the table that each
# process gets. Unlike /proc/cpuinfo, the table tells the truth in an emulator, too.
HWCAP, HWCAP2 = 16, 26
BITS = {
    HWCAP: {"asimd": 1, "asimdhp": 10, "asimddp": 20, "sve": 22},
    HWCAP2: {"sve2": 1, "i8mm": 13, "bf16": 14, "sme": 23, "sme2": 37},
}
# The numbers of the register MIDR_EL1, which /proc/cpuinfo gives in place of x86's "model name".
# Arm's and NVIDIA's manuals of the cores have them.

NAMES = {
    0x41: {  # Arm
        **{0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57"},
        **{0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76"},
        **{0xD0D: "Cortex-A77", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD4B: "Cortex-A78C"},
        **{0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD4D: "Cortex-A715", 0xD80: "Cortex-A520"},
        **{0xD81: "Cortex-A720", 0xD44: "Cortex-X1", 0xD48: "Cortex-X2", 0xD4E: "Cortex-X3"},
        **{0xD82: "Cortex-X4", 0xD0C: "Neoverse-N1", 0xD49: "Neoverse-N2", 0xD8E: "Neoverse-N3"},
        **{0xD40: "Neoverse-V1", 0xD4F: "Neoverse-V2", 0xD83: "Neoverse-V3AE"},
        0xD84: "Neoverse-V3",
    },
    0x4E: {0x003: "Denver 2", 0x004: "Carmel"},  # NVIDIA
}
PAIR = struct.Struct("=QQ")
CORE = re.compile(r"^CPU implementer\s*:\s*(\S+)$.*?^CPU part\s*:\s*(\S+)$", re.M | re.S)


def arm_features(auxiliary: bytes) -> frozenset[str]:
    """Return the instruction sets in `BITS`, as Linux names them, of a 64-bit process.

    `auxiliary` is the content of /proc/self/auxv, pairs of a key and a value.
    """
    whole = auxiliary[: len(auxiliary) // PAIR.size * PAIR.size]
    words = dict(PAIR.iter_unpack(whole))
    return frozenset(
        name
        for word, bits in BITS.items()
        for name, bit in bits.items()
        if words.get(word, 0) >> bit & 1
    )


def core_names(cpuinfo: str) -> str:
    """Return the kinds of cores that /proc/cpuinfo tells by number, "" if it tells none.

    Cores of one kind are "Cortex-A76", those of several kinds "4 x Cortex-A55 + 4 x Cortex-A76".
    """
    kinds = Counter(_name(*numbers) for numbers in CORE.findall(cpuinfo))
    if len(kinds) == 1:
        return next(iter(kinds))
    return " + ".join(f"{count} x {name}" for name, count in kinds.items())


def _name(implementer: str, part: str) -> str:
    """Return the name of a core, or its two numbers if it has no name here."""
    known = NAMES.get(_number(implementer), {})
    return known.get(_number(part), f"ARM {implementer} {part}")


def _number(text: str) -> int:
    """Return a hexadecimal number; -1, which no core has, if it is not one."""
    try:
        return int(text, 16)
    except ValueError:
        return -1
