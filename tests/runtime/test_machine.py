"""The facts about the machine, read from made-up system files."""

import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgegpt.runtime import machine
from edgegpt.runtime.control_groups import MemoryLimit
from edgegpt.runtime.machine import (
    Machine,
    available_memory,
    cpu_features,
    fast_cores,
    peak_memory,
    physical_cores,
    processor_kind,
)


def _system(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Put `files` in place of /sys/devices/system/cpu and /proc, in no control group."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(machine, "CPUS", folder / "cpus")
    monkeypatch.setattr(machine, "PROC", folder / "proc")
    monkeypatch.setattr(machine, "cpu_quota", lambda _: None)
    monkeypatch.setattr(machine, "memory_limit", lambda _: None)


def _allow(monkeypatch: pytest.MonkeyPatch, processors: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: processors, raising=False)


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
@pytest.mark.parametrize(
    ("allowed", "cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({0, 1}, 2), ({3}, 1)]
)
def test_hyperthreads_of_a_core_count_once_and_only_where_the_process_may_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    allowed: set[int],
    cores: int,
) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    files = {f"cpus/cpu{n}/topology/{name}": f"{text}\n" for n, text in siblings.items()}
    _system(tmp_path, monkeypatch, files)
    _allow(monkeypatch, allowed)
    assert physical_cores() == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [(0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (8.0, 4), (None, 4)]
)
def test_a_quota_of_processor_time_is_rounded_up_to_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    _system(tmp_path, monkeypatch, {})
    _allow(monkeypatch, {0, 1, 2, 3})
    monkeypatch.setattr(machine, "cpu_quota", lambda _: quota)
    assert physical_cores() == cores


def test_memory_is_what_the_machine_and_the_control_group_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _system(tmp_path, monkeypatch, {"proc/meminfo": "MemAvailable:  4000 kB\n"})
    whole = Machine.here().memory_bytes
    assert available_memory() == 4000 * 1024
    monkeypatch.setattr(machine, "memory_limit", lambda _: MemoryLimit(9000, 5000))
    assert (Machine.here().memory_bytes, available_memory()) == (9000, 5000)
    monkeypatch.setattr(machine, "memory_limit", lambda _: MemoryLimit(1 << 62, 1 << 61))
    assert (Machine.here().memory_bytes, available_memory()) == (whole, 4000 * 1024)


def test_without_a_topology_each_processor_is_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _system(tmp_path, monkeypatch, {})
    _allow(monkeypatch, {1, 4, 5})
    assert physical_cores() == 3


def test_without_an_affinity_the_whole_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert physical_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert physical_cores() == 1


def test_little_cores_get_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capacities = {0: 397, 1: 397, 2: 1024, 3: 1024, 4: 700}
    files = {f"cpus/cpu{n}/cpu_capacity": f"{size}\n" for n, size in capacities.items()}
    _system(tmp_path, monkeypatch, files)
    for allowed, cores in (({0, 1, 2, 3, 4}, 3), ({0, 1}, 2), ({1, 2}, 1), ({7, 8, 9}, 3)):
        _allow(monkeypatch, allowed)
        assert (fast_cores(), physical_cores()) == (cores, len(allowed))
    monkeypatch.setattr(machine, "cpu_quota", lambda _: 1.5)
    _allow(monkeypatch, {0, 1, 2, 3, 4})
    assert fast_cores() == 2


def test_without_an_affinity_all_cores_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert fast_cores() == 6


def _core(implementer: str, part: str) -> str:
    return f"CPU implementer\t: {implementer}\nCPU variant\t: 0x1\nCPU part\t: {part}\n\n"


A55, A76, UNKNOWN = _core("0x41", "0xd05"), _core("0x41", "0xd0b"), _core("0x99", "0x00z")


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Fast CPU\nprocessor\t: 1\n", "Fast CPU"),
        ("processor\t: 0\nCPU part\t: 0xd08\n\nModel\t\t: Small Board 4\n", "Small Board 4"),
        (f"{A76}{A76}Model\t\t: Small Board 5\n", "Small Board 5, Cortex-A76"),
        (f"processor\t: 0\n{A55}{A55}{A76}", "2 x Cortex-A55 + 1 x Cortex-A76"),
        (UNKNOWN, "ARM 0x99 0x00z"),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str
) -> None:
    _system(tmp_path, monkeypatch, {"proc/cpuinfo": cpuinfo})
    assert Machine.here().cpu == name


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("model name\t: X\nflags\t\t: fpu avx2\n\nflags\t\t: other\n", {"fpu", "avx2"}),
        ("processor\t: 0\n", set()),
    ],
)
def test_the_first_processor_tells_its_instruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, features: set[str]
) -> None:
    _system(tmp_path, monkeypatch, {"proc/cpuinfo": cpuinfo})
    assert cpu_features() == features


@pytest.mark.parametrize(
    ("words", "features"),
    [
        ({16: 1 << 20 | 1 << 10 | 0xFF, 26: 1 << 13}, {"asimd", "asimddp", "asimdhp", "i8mm"}),
        ({6: 4096, 16: 1 << 22, 26: 1 << 1 | 1 << 37, 0: 0}, {"sve", "sve2", "sme2"}),
        ({16: 0xFF}, {"asimd"}),
        ({}, set()),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"cut off"])
def test_an_arm_processor_tells_its_instruction_sets_to_each_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: dict[int, int],
    features: set[str],
    rest: bytes,
) -> None:
    emulated = {"proc/cpuinfo": "flags\t: avx2\n", "proc/self/auxv": ""}
    _system(tmp_path, monkeypatch, emulated)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    table = b"".join(struct.pack("=QQ", *pair) for pair in words.items())
    (tmp_path / "proc/self/auxv").write_bytes(table + rest)
    assert cpu_features() == features
    (tmp_path / "proc/self/auxv").unlink()
    assert cpu_features() == set()


def test_processors_are_of_one_kind_if_they_choose_the_same_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(architecture: str, features: str) -> str:
        bits = struct.pack("=QQQQ", 16, 1 << 20, 26, 1 << 13).decode()
        _system(tmp_path, monkeypatch, {"proc/cpuinfo": features, "proc/self/auxv": bits})
        monkeypatch.setattr(platform, "machine", lambda: architecture)
        return processor_kind()

    assert kind("x86_64", "flags\t: fpu avx2 fma aes\n") == "x86_64 avx2 fma"
    assert kind("x86_64", "flags\t: fma rtm avx2\n") == "x86_64 avx2 fma"
    assert kind("x86_64", "flags\t: avx2 fma avx512_vnni\n") == "x86_64 avx2 fma avx512_vnni"
    assert kind("aarch64", "flags\t: avx2\n") == "aarch64 asimddp i8mm"
    assert kind("arm64", "") == "arm64"


def test_the_largest_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {0: "32K", 1: "1024K", 2: "4M", 3: "odd"}
    files = {f"cpus/cpu0/cache/index{n}/size": f"{text}\n" for n, text in sizes.items()}
    _system(tmp_path, monkeypatch, files)
    assert Machine.here().cache_bytes == 4 << 20


def test_the_device_tree_names_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"proc/cpuinfo": A76, "proc/device-tree/model": "Board 5 Rev 1.0\0"}
    _system(tmp_path, monkeypatch, files)
    assert Machine.here().cpu == "Board 5 Rev 1.0, Cortex-A76"


def test_a_system_that_tells_nothing_is_still_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _system(tmp_path, monkeypatch, {})
    monkeypatch.setattr(os, "sysconf", _unknown_name)
    here = Machine.here()
    assert (here.cache_bytes, here.memory_bytes) == (0, 0)
    assert here.cpu


def _unknown_name(_: str) -> int:
    raise ValueError("unrecognized configuration name")


def test_peak_memory_is_read_in_kibibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _system(tmp_path, monkeypatch, {"proc/self/status": "VmPeak:\t 9 kB\nVmHWM:\t  3000 kB\n"})
    assert peak_memory() == 3000 * 1024


def test_peak_memory_stays_when_the_memory_is_given_back() -> None:
    code = (
        "from edgegpt.runtime.machine import peak_memory\n"
        "before = peak_memory()\n"
        "block = bytearray(b'x') * 100_000_000\n"
        "del block\n"
        "print(peak_memory() - before)"
    )
    grown = int(subprocess.check_output([sys.executable, "-c", code]))
    assert 90_000_000 < grown < 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="compares Linux's two sources")
def test_without_proc_peak_memory_comes_from_getrusage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = peak_memory()
    _system(tmp_path, monkeypatch, {})
    other = peak_memory()
    assert usual is not None
    assert other is not None
    assert 0.9 * usual < other < 100 * usual  # the right unit; a parent's peak may be inherited
