"""Memory on Windows, asked of stand-ins that fill in the bytes which Microsoft documents."""

import ctypes
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgegpt.runtime import machine, windows_memory
from edgegpt.runtime.doctor.probe import LocalProbe
from edgegpt.runtime.machine import Machine, available_memory, peak_memory

TOTAL, AVAILABLE, PEAK = 17 << 30, 5 << 30, 3 << 30
THIS_PROCESS = (1 << 64) - 1  # GetCurrentProcess gives -1, as a pointer


def kernel32(*, answers: bool = True) -> SimpleNamespace:
    """Return functions with C's calling convention; without `answers` they fail."""

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
    def status(address):
        memory = (ctypes.c_char * 64).from_address(address)
        if not answers or struct.unpack_from("<I", memory, 0) != (64,):  # dwLength
            return 0
        struct.pack_into("<QQ", memory, 8, TOTAL, AVAILABLE)  # ullTotalPhys, ullAvailPhys
        return 1

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    def counters(process, address, size):
        memory = (ctypes.c_char * 72).from_address(address)
        if not answers or (process, size) != (THIS_PROCESS, 72):
            return 0
        if struct.unpack_from("<I", memory, 0) != (72,):  # cb
            return 0
        struct.pack_into("<Q", memory, 8, PEAK)  # PeakWorkingSetSize
        return 1

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def process():
        return THIS_PROCESS

    return SimpleNamespace(
        GlobalMemoryStatusEx=status, GetCurrentProcess=process, K32GetProcessMemoryInfo=counters
    )


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that gives this machine a kernel32, in place of what Linux has."""

    def without_names(name):
        raise AttributeError(name)

    def given(kernel: SimpleNamespace | None) -> None:
        monkeypatch.setattr(windows_memory, "_kernel32", lambda: kernel)

    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "memory_limit", lambda _: None)
    monkeypatch.setattr(machine.os, "sysconf", without_names)
    monkeypatch.setitem(sys.modules, "resource", None)
    return given


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="the layout is that of 64 bits")
def test_windows_tells_the_memory_of_the_machine_and_of_the_process(windows) -> None:
    windows(kernel32())
    assert (Machine.here().memory_bytes, available_memory(), peak_memory()) == (
        TOTAL,
        AVAILABLE,
        PEAK,
    )
    assert LocalProbe().memory() == (TOTAL, AVAILABLE)


@pytest.mark.parametrize("kernel", [None, kernel32(answers=False)], ids=["none", "failing"])
def test_where_nothing_tells_it_memory_is_unknown(windows, kernel) -> None:
    windows(kernel)
    assert (Machine.here().memory_bytes, available_memory(), peak_memory()) == (0, None, None)
    assert LocalProbe().memory() == (0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has one")
def test_other_systems_have_no_kernel32() -> None:
    assert windows_memory.physical_memory() is None
    assert windows_memory.largest_working_set() is None
