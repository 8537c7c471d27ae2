"""Read files that others wrote: regular ones only, of bounded size, whatever their JSON holds.

What is there but is no regular file, such as a folder, a pipe, a device or a link to nothing, is
refused by name: it does not count as missing, and reading it might never end.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from edgegpt.runtime.files import is_lfs_pointer

from .errors import CheckpointError

__all__ = ["LARGEST", "is_file", "json_text", "parsed", "read_json", "read_optional", "read_text"]

LARGEST = 128 * 2**20  # bytes. The largest tokenizer.json known, Gemma 3's, has 33 million
BYTE_ORDER_MARK = "\ufeff"  # Windows' editors put it before a text
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def is_file(path: Path) -> bool:
    """Return whether there is a regular file at `path`, or a link to one.

    Raises:
        CheckpointError: if something else is there, or a file that Git LFS has not fetched.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link to {os.readlink(path)}: missing") from None
        return False
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise CheckpointError(f"{path} is {kind}, where a file belongs")
    try:
        stands_in = is_lfs_pointer(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if stands_in:
        raise CheckpointError(f"{path} only stands for a file of Git LFS: run `git lfs pull`")
    return True


def read_text(path: Path, largest: int = LARGEST) -> str | None:
    """Return the UTF-8 text of a file of at most `largest` bytes; None if there is nothing.

    Raises:
        CheckpointError: if it is no regular file, is larger, is not UTF-8, or cannot be read.
    """
    if not is_file(path):
        return None
    try:
        size = path.stat().st_size
        if size > largest:
            raise CheckpointError(f"{path} has {size:,} bytes; at most {largest:,} are read")
        return path.read_bytes().decode("utf-8")  # Path.read_text would change the line ends
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def json_text(path: Path) -> str | None:
    """Return the text of a JSON file, without a byte order mark; None if there is nothing."""
    text = read_text(path)
    return None if text is None else text.removeprefix(BYTE_ORDER_MARK)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises:
        CheckpointError: if the file is missing, cannot be read, or holds something else.
    """
    text = json_text(path)
    if text is None:
        raise CheckpointError(f"{path} is missing")
    return parsed(text, str(path))


def read_optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at `path`; an empty one if there is nothing."""
    text = json_text(path)
    return {} if text is None else parsed(text, str(path))


def parsed(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a text; `where` is its place, for messages."""
    try:
        document = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return document
