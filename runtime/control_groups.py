"""The limits of this process's control groups, with which containers and services are confined.

Both versions of Linux's control groups are read, as `man 7 cgroups` and the kernel's
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst describe them. A group's limit
holds for the groups inside it, too, so the smallest one on the way up counts. A container may see
its own group as the root of the file system: a path that does not exist there is passed over.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["MemoryLimit", "cpu_quota", "memory_limit"]

Read = Callable[[str], str | None]

OWN_GROUPS = "/proc/self/cgroup"
# What the kernel takes back when memory is short: the file cache of the group and those inside it.
RECLAIMABLE = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)
VERSION_1_SUMS = "total_"


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes that the processes of a group may use, and those that are left of them."""

    limit: int
    left: int


def cpu_quota(read: Read) -> float | None:
    """Return how many processors' time this process may use; None without a limit.

    `read` returns the text of a file, or None or "" if it cannot be read.
    """
    quotas = []
    for group in _groups(read, "cpu"):
        text = read(f"{group}/cpu.max") or " ".join(
            read(f"{group}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")
        )
        numbers = re.fullmatch(r"(\d+)\s+(\d+)", text.strip())  # without a limit: max, or -1
        if numbers and int(numbers[1]) and int(numbers[2]):
            quotas.append(int(numbers[1]) / int(numbers[2]))
    return min(quotas, default=None)


def memory_limit(read: Read) -> MemoryLimit | None:
    """Return the limit under which the least memory is left; None without a limit.

    Memory that the file cache would give up counts as left. `read` is as in `cpu_quota`.
    """
    limits = []
    for group in _groups(read, "memory"):
        limit = _number(read(f"{group}/memory.max") or read(f"{group}/memory.limit_in_bytes"))
        used = _number(read(f"{group}/memory.current") or read(f"{group}/memory.usage_in_bytes"))
        if limit is not None and used is not None:
            given_up = _file_cache(read(f"{group}/memory.stat") or "")
            limits.append(MemoryLimit(limit, max(0, limit - max(0, used - given_up))))
    least = min((limit.left for limit in limits), default=math.inf)
    return next((limit for limit in limits if limit.left == least), None)


def _file_cache(stat: str) -> int:
    """Return the bytes of the file cache. Version 1 lists the group alone, too: only sums count."""
    entries = list(RECLAIMABLE.finditer(stat))
    sums = [match for match in entries if match[0].startswith(VERSION_1_SUMS)]
    return sum(int(match[1]) for match in sums or entries)


def _number(text: str | None) -> int | None:
    """Return the number of a file; None for "max"."""
    stripped = (text or "").strip()
    return int(stripped) if stripped.isdecimal() else None


def _groups(read: Read, controller: str) -> Iterator[str]:
    """Yield the folders of this process's groups of a controller, the innermost first."""
    for line in (read(OWN_GROUPS) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2, where one tree has all controllers
            roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            roots = [f"/sys/fs/cgroup/{controllers}", f"/sys/fs/cgroup/{controller}"]
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for root in dict.fromkeys(roots):
            for group in (inside, *inside.parents):
                yield str(PurePosixPath(root, group))
