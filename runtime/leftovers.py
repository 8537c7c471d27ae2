"""Folders that killed writers left, and how a writer shows that its own is in use."""

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["in_use", "remove_leftovers"]

YOUNG = 60.0  # seconds in which a writer surely comes from making its folder to holding it


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold `folder`, as long as the context lasts and the process lives; see `remove_leftovers`."""
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose names begin with `prefix` and that nobody holds.

    Young ones stay, and all where folders cannot be held.
    """
    if fcntl is None:
        return
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):  # held, gone, or of somebody else
            if time.time() - folder.stat().st_mtime > YOUNG and _is_free(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_free(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
    return True
