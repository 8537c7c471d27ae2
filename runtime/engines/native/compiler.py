"""Compile the native engine's sources with the machine's C++ compiler, or that of `ziglang`."""

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineError, InvalidInputError
from ...packages import pip_install

__all__ = ["NATIVE", "Compiler", "Processor", "compile_library", "find_compiler"]

SECONDS = 600.0  # ziglang builds its C++ library first, which takes most of a minute
NATIVE = "native"  # this machine's processor
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # of a processor or a system; never an option
# No exceptions cross the border to C, and no product and sum become one but where the source says
# so: a row's bits must not depend on how a compiler cuts a loop.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-s"),
)
ZIG_SYSTEMS = {"linux": "linux-gnu.2.28", "macos": "macos", "windows": "windows-gnu"}
X86 = ("x86_64", "amd64")


@dataclass(frozen=True)
class Processor:
    """What a library is compiled for.

    Attributes:
        cpu: a name that the compiler knows, such as "cortex-a76" or "x86-64-v3"; or `NATIVE`.
        target: architecture and system, such as "aarch64-linux"; None: this machine's.
    """

    cpu: str = NATIVE
    target: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("cpu", self.cpu), ("target", self.target)):
            if value is not None and NAME.fullmatch(value) is None:
                raise InvalidInputError(f"{name} is {value!r:.60}, which names none")
        if self.target is None:
            return
        if self.cpu == NATIVE:
            raise InvalidInputError(
                f"for another machine ({self.target}), --cpu must name its processor, such as "
                f"cortex-a76 or x86-64-v3"
            )
        if self.target.partition("-")[2] not in ZIG_SYSTEMS:
            raise InvalidInputError(
                f"target is {self.target!r}; it is an architecture and one of "
                f"{', '.join(ZIG_SYSTEMS)}, such as aarch64-linux"
            )

    @property
    def is_here(self) -> bool:
        """Whether it is what this machine has, by the compiler's own judgement."""
        return self == Processor()

    @property
    def architecture(self) -> str:
        """That of the target, such as "aarch64"."""
        return (self.target or platform.machine()).partition("-")[0]


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: how it is called.
        version: the first line that it says about itself.
        is_zig: whether it is the one in the package `ziglang`, which compiles for any system.
    """

    command: tuple[str, ...]
    version: str
    is_zig: bool = False

    def flags(self, processor: Processor) -> list[str]:
        """Return the options that choose what to compile for."""
        if self.is_zig:
            chosen = [f"-mcpu={processor.cpu.replace('-', '_')}"]
            if processor.target is None:
                return chosen
            architecture, _, system = processor.target.partition("-")
            return ["-target", f"{architecture}-{ZIG_SYSTEMS[system]}", *chosen]
        kind = "march" if processor.architecture.lower() in X86 else "mcpu"
        return [f"-{kind}={processor.cpu}"]


def find_compiler(processor: Processor) -> Compiler:
    """Return a compiler for a processor: the machine's own if it has one, else that of `ziglang`.

    Raises:
        EngineError: if there is none.
    """
    name = "c++" if processor.target is None else f"{processor.architecture}-linux-gnu-g++"
    path = shutil.which(name)
    if path is not None and processor.target in (None, f"{processor.architecture}-linux"):
        return Compiler((path,), _version((path,)))
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "c++")
        return Compiler(command, _version(command), is_zig=True)
    raise EngineError(
        f"there is no C++ compiler ({name}): install one (Debian: `apt install g++`), or the one "
        f"that is a Python package: {pip_install('native')}"
    )


def compile_library(
    compiler: Compiler,
    processor: Processor,
    sources: Sequence[Path],
    include: Path,
    out: Path,
    flags: Sequence[str] = (),
) -> None:
    """Write the shared library `out`, from C++ files that find `model.h` in the folder `include`.

    What that one includes lies beside the C++ files. `flags` are added to the usual ones.

    Raises:
        EngineError: if the compiler fails; it has the compiler's first error.
    """
    command = [
        *(*compiler.command, *FLAGS, *compiler.flags(processor), *flags),
        *(f"-I{include}", f"-I{sources[0].parent}"),
        *(*map(str, sources), "-o", str(out)),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            cwd=include,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{compiler.command[0]} took over {SECONDS:.0f} s") from error
    except OSError as error:
        raise EngineError(f"cannot run {compiler.command[0]}: {error.strerror}") from error
    told = done.stderr.decode(errors="replace")
    if done.returncode:
        raise EngineError(
            f"{compiler.version} failed for {processor.cpu}: {_first_error(told, include)}"
        )
    if not out.is_file():
        raise EngineError(f"{compiler.version} wrote no library, and said no error")


def _first_error(told: str, scratch: Path) -> str:
    """Return the first line that tells of an error, else the last one, without our folder."""
    lines = [line.strip() for line in told.replace(f"{scratch}/", "").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines[-1:]
    return errors[0][-300:] if errors else "it said nothing"


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"cannot run {' '.join(command)}: {error}") from error
    lines = done.stdout.decode(errors="replace").splitlines()
    return lines[0].strip()[:100] if lines else " ".join(command)
