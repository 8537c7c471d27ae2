"""Let two files or folders take each other's name, in one step, where the system can do that."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["exchange"]

AT_FDCWD = -100  # Linux: a relative path begins in the process's folder; fcntl.h
RENAME_EXCHANGE = 2  # renameat2(2)
RENAME_SWAP = 2  # renamex_np(2), sys/stdio.h


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in the same file system.

    Returns:
        False, and nothing has changed, if the system or the file system cannot do it in one step.
    """
    call = _system_call()
    return call is not None and call(os.fsencode(first), os.fsencode(second)) == 0


def _system_call() -> Callable[[bytes, bytes], int] | None:
    """Return a function that exchanges two names, and gives 0 if it did; None: there is none."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)  # an old C library lacks it
        if rename is not None:
            return lambda one, two: int(rename(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE))
    elif sys.platform == "darwin":
        swap = getattr(ctypes.CDLL(None), "renamex_np", None)
        if swap is not None:
            return lambda one, two: int(swap(one, two, RENAME_SWAP))
    return None
