"""What Windows refuses, and Linux does not, as stand-ins for the calls of the system.

The rules are those of Microsoft's documentation of CreateFile, MoveFileEx, DeleteFile and
FlushFileBuffers, for files as Python opens them (without FILE_SHARE_DELETE):

- a folder cannot be opened, and only a handle that may write can be flushed;
- `os.rename` replaces nothing, and `os.replace` replaces files, but no folders;
- a file that is open or mapped is neither removed, renamed nor replaced, nor is the folder that
  holds it renamed.

They see what Python's `os` is asked for. What this process has open or mapped, also in libraries,
is read from /proc.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegpt.runtime import files, leftovers

__all__ = ["KNOWN", "windows_rules"]

KNOWN = Path("/proc/self/maps").exists()  # whether it can be told what is open and mapped
OPEN, FLUSH, RENAME, REPLACE, REMOVE = os.open, os.fsync, os.rename, os.replace, os.unlink


def in_use(path: Any) -> str | None:
    """Return a file at `path`, or in the folder there, that this process has open or mapped."""
    path, used = os.path.realpath(path), set()
    for handle in os.listdir("/proc/self/fd"):
        try:
            used.add(os.readlink(f"/proc/self/fd/{handle}"))
        except FileNotFoundError:  # it was the handle of the list
            continue
    for line in Path("/proc/self/maps").read_text().splitlines():
        used.add(re.split(r"\s+", line, maxsplit=5)[-1])
    return next((one for one in used if one == path or one.startswith(f"{path}/")), None)


def _refuse(kind: int, path: Any, why: str) -> None:
    raise OSError(kind, why, str(path))


def _check_free(*paths: Any) -> None:
    for path in paths:
        used = in_use(path)
        if used is not None:
            _refuse(errno.EACCES, path, f"Windows: {used} is in use")


def _open(path: Any, flags: int, *rest: Any, **settings: Any) -> int:
    if not isinstance(path, int) and os.path.isdir(path):
        _refuse(errno.EACCES, path, "Windows opens no folder")
    return OPEN(path, flags, *rest, **settings)


def _fsync(handle: int) -> None:
    flags = Path(f"/proc/self/fdinfo/{handle}").read_text().split("flags:")[1].split()[0]
    if int(flags, 8) & os.O_ACCMODE == os.O_RDONLY:
        _refuse(errno.EBADF, handle, "Windows flushes nothing that was opened to be read")
    FLUSH(handle)


def _rename(source: Any, target: Any) -> None:
    if os.path.lexists(target):
        _refuse(errno.EEXIST, target, "Windows: there is something of this name")
    _check_free(source)
    RENAME(source, target)


def _replace(source: Any, target: Any) -> None:
    if os.path.isdir(target):
        _refuse(errno.EACCES, target, "Windows replaces no folder")
    _check_free(source, target)
    REPLACE(source, target)


def _unlink(path: Any, **settings: Any) -> None:
    _check_free(path)
    REMOVE(path, **settings)


def windows_rules(patch: pytest.MonkeyPatch) -> None:
    """Let this process meet Windows's refusals until `patch` is undone."""
    rules: dict[str, Callable[..., Any]] = {
        "open": _open,
        "fsync": _fsync,
        "rename": _rename,
        "replace": _replace,
        "unlink": _unlink,
        "remove": _unlink,
    }
    for name, rule in rules.items():
        patch.setattr(os, name, rule)
    patch.setattr(shutil, "_use_fd_functions", False)  # Windows has none
    patch.setattr(files, "exchange", lambda *_: False)
    patch.setattr(leftovers, "fcntl", None)
