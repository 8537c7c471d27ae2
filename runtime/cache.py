"""What this machine keeps on its disk and could make again: built engines, downloaded texts.

An engine is a folder, or some files whose names begin alike, below `engines/<bundle id>`.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidInputError
from .user_folders import cache_folder

__all__ = [
    "ENGINES",
    "LIMIT",
    "Kept",
    "beyond",
    "keep_within_limit",
    "kept",
    "limit",
    "parse_size",
    "remove",
    "touch",
]

logger = logging.getLogger(__name__)

ENGINES = "engines"
LIMIT = "EDGEGPT_CACHE_LIMIT"  # environment variable: the most that engines may take
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?|\d{1,15}) ?([KMGT]?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Kept:
    """Something on the disk that can be removed.

    Attributes:
        kind: "engine" or "text".
        name: of an engine the beginning of the bundle's id and its own; of others the file's.
        paths: its files and folders.
        size: bytes.
        used: when it was last used, in seconds since 1970.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    size: int
    used: float


def kept() -> list[Kept]:
    """Return all that is kept, what was used last first."""
    found = []
    for folder in _entries(cache_folder() / ENGINES):
        of_bundle: dict[str, list[Path]] = {}
        for path in _entries(folder):
            of_bundle.setdefault(path.name.partition(".")[0], []).append(path)
        found += [
            _described("engine", f"{folder.name[:12]}/{name[:8]}", paths)
            for name, paths in of_bundle.items()
            if name
        ]
    texts = [path for path in _entries(cache_folder()) if path.is_file()]
    found += [_described("text", path.name, [path]) for path in texts]
    return sorted(found, key=lambda one: one.used, reverse=True)


def remove(unwanted: Sequence[Kept]) -> None:
    """Remove some of what is kept. An engine that is in use goes on from memory."""
    for path in (path for one in unwanted for path in one.paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # rmdir removes only an empty folder
            path.parent.rmdir()


def touch(path: Path) -> None:
    """Note that what lies at `path` is used now; on a read-only disk nothing is noted."""
    with contextlib.suppress(OSError):
        os.utime(path)


def limit() -> int | None:
    """Return the most bytes that all engines may take by the user's word; None: there is none.

    Raises:
        InvalidInputError: if the environment variable is no size.
    """
    told = os.environ.get(LIMIT)
    return parse_size(told, LIMIT) if told else None


def keep_within_limit() -> None:
    """Remove the engines that were not used for longest, if all of them pass the user's limit.

    The one that was used last stays in any case.
    """
    most, engines = limit(), [one for one in kept() if one.kind == "engine"]
    if most is not None and engines:
        unwanted = beyond(engines[1:], most - engines[0].size)
        for one in unwanted:
            logger.info("removing the engine %s: %s is %s", one.name, LIMIT, most)
        remove(unwanted)


def beyond(found: Sequence[Kept], limit: int) -> list[Kept]:
    """Return what has to go, so that the rest of `found` has at most `limit` bytes.

    What comes first in `found` is kept before what comes later.
    """
    total, unwanted = 0, []
    for one in found:
        if total + one.size > limit:
            unwanted.append(one)
        else:
            total += one.size
    return unwanted


def parse_size(text: str, name: str) -> int:
    """Return the bytes that a text such as "2GB" or "500 MB" means; `name`: of what, for errors."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError(f"{name}: {text!r:.40} is no size; write it as 500MB or 2GB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _described(kind: str, name: str, paths: Sequence[Path]) -> Kept:
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    stats = [file.stat() for file in files if file.is_file()]
    used = max((path.stat().st_mtime for path in paths), default=0.0)
    return Kept(kind, name, tuple(paths), sum(one.st_size for one in stats), used)
