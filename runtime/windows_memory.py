"""What Windows tells of memory: its library kernel32, asked by ctypes.

The structures are MEMORYSTATUSEX of sysinfoapi.h and PROCESS_MEMORY_COUNTERS of psapi.h.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["PhysicalMemory", "largest_working_set", "physical_memory"]


@dataclass(frozen=True)
class PhysicalMemory:
    """Bytes of memory that the machine has, and those that can be used without swapping."""

    total: int
    available: int


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total_physical", ctypes.c_uint64),
        ("available_physical", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )


class _MemoryCounters(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def physical_memory() -> PhysicalMemory | None:
    """Return the memory of this machine; None if this is not Windows, or it does not tell."""
    kernel = _kernel32()
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if kernel is None or not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return PhysicalMemory(status.total_physical, status.available_physical)


def largest_working_set() -> int | None:
    """Return the most bytes of memory that this process has had; None as above."""
    kernel = _kernel32()
    if kernel is None:
        return None
    counters = _MemoryCounters(length=ctypes.sizeof(_MemoryCounters))
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    size = ctypes.c_uint32(counters.length)
    if not kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), size):
        return None
    return int(counters.peak_working_set)


def _kernel32() -> Any:
    """Return kernel32, in a handle whose settings nobody else changes; None if there is none."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernel32")
    return None
