"""The limits of control groups, read from made-up files."""

import pytest

from edgegpt.runtime.control_groups import MemoryLimit, cpu_quota, memory_limit

VERSION_2 = {"/proc/self/cgroup": "0::/system/edge\n"}
VERSION_1 = {"/proc/self/cgroup": "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n"}
ROOT = "/sys/fs/cgroup"


def test_without_groups_there_is_no_limit() -> None:
    assert cpu_quota({}.get) is None
    assert memory_limit({}.get) is None
    assert cpu_quota(VERSION_2.get) is None
    assert memory_limit(VERSION_1.get) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({f"{ROOT}/system/edge/cpu.max": "20000 100000\n"}, 0.2),
        ({f"{ROOT}/system/edge/cpu.max": "max 100000\n"}, None),
        (
            {f"{ROOT}/system/edge/cpu.max": "max 100000\n", f"{ROOT}/system/cpu.max": "150 100"},
            1.5,
        ),
        ({f"{ROOT}/cpu.max": "300000 100000\n"}, 3.0),  # a container that sees its group as root
        ({f"{ROOT}/system/edge/cpu.max": "nonsense"}, None),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(
    files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota((VERSION_2 | files).get) == quota


@pytest.mark.parametrize("folder", ["cpu,cpuacct/a", "cpu/a", "cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_is_in_two_files(folder: str) -> None:
    files = {
        f"{ROOT}/{folder}/cpu.cfs_quota_us": "250000\n",
        f"{ROOT}/{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert cpu_quota((VERSION_1 | files).get) == 2.5
    files[f"{ROOT}/{folder}/cpu.cfs_quota_us"] = "-1\n"
    assert cpu_quota((VERSION_1 | files).get) is None


def _memory(group: str, limit: str, used: str, stat: str = "") -> dict[str, str]:
    names = {"max": limit, "current": used, "stat": stat}
    return {f"{ROOT}/{group}memory.{name}": text for name, text in names.items()}


def test_the_file_cache_counts_as_left() -> None:
    stat = "anon 500\nactive_file 60\ninactive_file 40\nslab 9\n"
    files = VERSION_2 | _memory("system/edge/", "1000\n", "700\n", stat)
    assert memory_limit(files.get) == MemoryLimit(1000, 400)


def test_the_group_with_the_least_left_counts() -> None:
    inner, outer = _memory("system/edge/", "1000", "100"), _memory("system/", "2000", "1900")
    assert memory_limit((VERSION_2 | inner | outer).get) == MemoryLimit(2000, 100)
    outer = _memory("system/", "max", "1900")
    assert memory_limit((VERSION_2 | inner | outer).get) == MemoryLimit(1000, 900)


def test_a_limit_that_is_exceeded_leaves_nothing() -> None:
    assert memory_limit((VERSION_2 | _memory("", "10", "30")).get) == MemoryLimit(10, 0)


def test_in_version_1_only_sums_over_the_groups_inside_count() -> None:
    group = f"{ROOT}/memory/a/b/memory"
    files = VERSION_1 | {
        f"{group}.limit_in_bytes": "1000\n",
        f"{group}.usage_in_bytes": "700\n",
        f"{group}.stat": "active_file 1\ntotal_inactive_file 100\ntotal_active_file 20\n",
    }
    assert memory_limit(files.get) == MemoryLimit(1000, 420)
