"""Read what a user names: a file, a pipe, or what is typed; no device that may have no end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_input", "read_input"]


def open_input(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: if it cannot be opened, or is a device other than a terminal.
    """
    file = path.open("rb")
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
        file.close()
        raise OSError(errno.ENODEV, "it is a device, not a file", str(path))
    return file


def read_input(path: Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        OSError: if it cannot be read, or is a device other than a terminal.
    """
    with open_input(path) as file:
        return file.read()
