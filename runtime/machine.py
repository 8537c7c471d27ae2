"""Describe this machine (processor, cores, caches, memory) and this process's peak memory.

Linux gives this information in /proc and /sys, Windows tells of memory. Elsewhere it comes from
the standard library; values that it cannot give are 0 or None.
"""

import math
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .arm_cores import arm_features, core_names
from .control_groups import cpu_quota, memory_limit
from .windows_memory import largest_working_set, physical_memory

__all__ = [
    "Machine",
    "available_memory",
    "cpu_features",
    "fast_cores",
    "peak_memory",
    "physical_cores",
    "processor_kind",
]

CPUS = Path("/sys/devices/system/cpu")
PROC = Path("/proc")
# The kernel's list of a core's logical processors; older kernels have only the second name.
SIBLING_LISTS = ("core_cpus_list", "thread_siblings_list")
# Instruction sets by which an engine chooses its kernels, and so how it rounds: for x86 those that
# `mlas/lib/platform.cpp` of ONNX Runtime asks for, for ARM those of its float16, int8 and SVE
# kernels and of KleidiAI. As Linux names them.
KERNEL_FEATURES = (
    *("sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"),
    *("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2"),
)
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """The machine that a measurement ran on.

    Attributes:
        cpu: the processor's name as the system gives it; on ARM the board's and the cores'.
        physical_cores: number of cores that this process may use.
        cache_bytes: the largest cache of the first processor; 0 if unknown.
        memory_bytes: physical memory, or what a control group leaves of it; 0 if unknown.
        system: operating system, its version, and the architecture.
        python: version of the interpreter.
    """

    cpu: str
    physical_cores: int
    cache_bytes: int
    memory_bytes: int
    system: str
    python: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine."""
        return cls(
            cpu=_cpu_name(),
            physical_cores=physical_cores(),
            cache_bytes=_largest_cache(),
            memory_bytes=_memory_bytes(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
        )


def physical_cores() -> int:
    """Return how many cores this process may use; two hyperthreads of one core count once.

    Where the system does not tell which logical processors share a core, each counts as one. A
    quota of processor time, as containers have, is rounded up to whole cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return _cores_of(os.sched_getaffinity(0))


def fast_cores() -> int:
    """Return how many of the `physical_cores` are worth a thread, at least 1.

    A product ends when the slowest thread has ended its equal part, so cores with less than half
    the capacity of the fastest one would slow the others down (big.LITTLE). Linux tells the
    capacities (Documentation/scheduler/sched-capacity.rst); where it does not, all cores count.
    """
    if not hasattr(os, "sched_getaffinity"):
        return physical_cores()
    capacities = {number: _capacity(number) for number in os.sched_getaffinity(0)}
    most = max(capacities.values())
    return _cores_of(number for number, capacity in capacities.items() if 2 * capacity >= most)


def cpu_features() -> frozenset[str]:
    """Return the instruction sets of the processor, as Linux names them; empty if unknown.

    Of an ARM processor these are "asimd", which all have, and those among `KERNEL_FEATURES`.
    """
    if platform.machine() == "aarch64":
        return arm_features(_read_bytes(PROC / "self/auxv"))
    lines = re.search(r"^flags\s*:(.*)$", _read(PROC / "cpuinfo"), re.MULTILINE)
    return frozenset(lines[1].split()) if lines else frozenset()


def processor_kind() -> str:
    """Return the architecture and the `KERNEL_FEATURES` here, such as "aarch64 asimddp i8mm".

    Processors of one kind run the same kernels. Where the system tells no features, this is the
    architecture alone.
    """
    here = cpu_features()
    return " ".join([platform.machine(), *(name for name in KERNEL_FEATURES if name in here)])


def available_memory() -> int | None:
    """Return how many bytes new work can use without swapping; None if the system does not tell.

    This is Linux's MemAvailable: free memory, plus what the file caches would give up; at most what
    is left under the limit of a control group. On Windows it is ullAvailPhys, in which the cache
    counts as free, too; limits of a job object are not asked for.
    """
    limit = memory_limit(_file)
    for line in _read(PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * UNITS["K"]
            return available if limit is None else min(available, limit.left)
    windows = physical_memory()
    return None if windows is None else windows.available


def peak_memory() -> int | None:
    """Return the peak resident memory of this process so far, in bytes.

    This is VmHWM on Linux, PeakWorkingSetSize on Windows, and getrusage's ru_maxrss elsewhere.
    It counts the interpreter, all libraries, weights (also the pages of a mapped weight file that
    have been read), caches and workspace.
    """
    for line in _read(PROC / "self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * UNITS["K"]
    try:
        import resource  # noqa: PLC0415 - Windows has no such module
    except ImportError:
        return largest_working_set()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * UNITS["K"]


def _cores_of(processors: Iterable[int]) -> int:
    """Return the cores of the logical `processors`, or as many as a quota of time leaves."""
    cores, quota = _distinct_cores(processors), cpu_quota(_file)
    return cores if quota is None else min(cores, math.ceil(quota))


def _capacity(processor: int) -> int:
    """Return Linux's measure of a logical processor's speed; 0 where it tells none."""
    text = _read(CPUS / f"cpu{processor}" / "cpu_capacity").strip()
    return int(text) if text.isdecimal() else 0


def _distinct_cores(processors: Iterable[int]) -> int:
    """Count the cores that the logical `processors` belong to."""
    cores = set()
    for processor in processors:
        topology = CPUS / f"cpu{processor}" / "topology"
        lists = (_read(topology / name).strip() for name in SIBLING_LISTS)
        cores.add(next((siblings for siblings in lists if siblings), f"only {processor}"))
    return len(cores)


def _cpu_name() -> str:
    """Return /proc/cpuinfo's name of the processor (x86), or those of the board and its cores."""
    cpuinfo = _read(PROC / "cpuinfo")
    board = _read(PROC / "device-tree/model").strip("\0\n ")
    for key in ("model name", "Model", "Hardware"):
        match = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        board = board or (match[1].strip() if match else "")
    named = [name for name in (board, core_names(cpuinfo)) if name]
    return ", ".join(named) or platform.processor() or platform.machine() or "unknown"


def _largest_cache() -> int:
    sizes = [_read(path).strip() for path in (CPUS / "cpu0/cache").glob("index*/size")]
    return max((_size(text) for text in sizes), default=0)


def _size(text: str) -> int:
    """Return the bytes of a size such as 32768K; 0 if it is not one."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    return int(match[1]) * UNITS.get(match[2], 1) if match else 0


def _memory_bytes() -> int:
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows; systems without these names
        windows = physical_memory()
        return 0 if windows is None else windows.total
    limit = memory_limit(_file)
    return physical if limit is None else min(physical, limit.limit)


def _file(path: str) -> str:
    return _read(Path(path))


def _read(path: Path) -> str:
    """Return the text of a system file; "" if it cannot be read."""
    return _read_bytes(path).decode(errors="replace")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
