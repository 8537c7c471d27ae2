"""What ONNX Runtime's kernels can do on this processor: some depend on its instruction sets.

Its `mlas/lib/platform.cpp` chooses them. Where a system tells no instruction sets (macOS, Windows),
each function says of a processor what is safe to assume.
"""

import platform

from ...machine import cpu_features
from ..support import numbers

__all__ = ["int8_options", "multiplies_blocks", "multiplies_int8", "sums_in_float32"]

# x86 processors without VNNI add products of uint8 and int8 in 16 bits, which overflow. Without
# this option, int8 prompts are wrong there (by half the largest logit). With VNNI nothing
# overflows, and the option makes products half as fast.
NO_OVERFLOW = "session.x64quantprecision"
NO_OVERFLOW_SINCE = (1, 30)  # earlier versions abort the process when a graph has such products
X86 = ("x86_64", "AMD64", "i686")  # names that systems have for it
ARM64 = ("aarch64", "arm64", "ARM64")
AVX512_VNNI = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}


def int8_options() -> dict[str, str]:
    """Return the options of a session whose products of int8 are right on this CPU."""
    return {NO_OVERFLOW: "1"} if _overflows() else {}


def multiplies_int8(version: str) -> bool:
    """Return whether this version of ONNX Runtime multiplies int8 by int8 rightly on this CPU."""
    return not _overflows() or numbers(version) >= NO_OVERFLOW_SINCE


def sums_in_float32() -> bool:
    """Return whether ONNX Runtime adds up products of float16 in float32 on this CPU.

    It does not on ARM cores with float16 arithmetic, which those may have that tell no features.
    """
    features = cpu_features()
    return platform.machine() not in ARM64 or (bool(features) and "asimdhp" not in features)


def multiplies_blocks() -> bool:
    """Return whether ONNX Runtime multiplies int8 by blocks of integers (MatMulNBits) on this CPU.

    Otherwise it makes float32 numbers of all blocks at each step, which takes three times as long
    as the same step in float32. Its `mlas/lib/platform.cpp` asks for AVX2 on x86, and for products
    of four pairs of int8 (dotprod) on ARM. CPUs that tell no features count as able.
    """
    features = cpu_features()
    needed = "asimddp" if platform.machine() in ARM64 else "avx2"
    return not features or platform.machine() not in X86 + ARM64 or needed in features


def _overflows() -> bool:
    """Return whether products of int8 need `NO_OVERFLOW` here."""
    return platform.machine() in X86 and not _has_vnni(cpu_features())


def _has_vnni(features: frozenset[str]) -> bool:
    """Return whether ONNX Runtime finds instructions that add int8 products in 32 bits.

    These are the tests of its `mlas/lib/platform.cpp`, which looks for AVX-512 first.
    """
    if "avx512f" in features:
        return features >= AVX512_VNNI
    return "avx_vnni" in features
