"""Files that a command writes besides what it prints."""

import tempfile
from pathlib import Path

import click

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.files import check_room

__all__ = ["check_writable", "tell_written"]

LARGEST = 1 << 20  # bytes; of a page or a result, which are mostly far smaller


def check_writable(*paths: Path | None) -> None:
    """Refuse a path that cannot be written, before any work; None is no path.

    Raises:
        InvalidInputError: names the path.
    """
    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir():
            raise InvalidInputError(f"cannot write {path}: it is a folder")
        if not folder.is_dir():
            raise InvalidInputError(f"cannot write {path}: there is no folder {folder}")
        check_room(path, LARGEST)
        try:  # os.access promises root too much, as on network file systems
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            told = f"cannot write {path}: its folder takes no file: {error.strerror}"
            raise InvalidInputError(told) from error


def tell_written(*paths: Path | None) -> None:
    """Tell which files were written."""
    for path in paths:
        if path is not None:
            click.echo(f"wrote {path}", err=True)
