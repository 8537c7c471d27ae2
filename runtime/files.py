"""Write files and folders atomically: a reader finds all of the content, or none of it.

Everything is first written beside its destination, flushed to the disk, and then renamed. A new
folder or file appears in one step, and a folder is replaced in one where the system can exchange
two names. Elsewhere it takes two steps: if the process is killed between them, the old folder
remains beside `path`, in one whose name begins with a dot.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import InvalidInputError
from .exchange import exchange
from .leftovers import in_use, remove_leftovers

__all__ = [
    "check_room",
    "folder_beside",
    "is_lfs_pointer",
    "library_path",
    "make_parent",
    "new_file",
    "new_folder",
    "scratch_folder",
    "write_file",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how Git LFS's stand-ins begin
LARGEST_POINTER = 1024  # bytes


def is_lfs_pointer(path: Path) -> bool:
    """Return whether the file at `path` only stands for one that Git LFS has not fetched."""
    if path.stat().st_size > LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def library_path(path: Path) -> str:
    """Return a path for a library in C++, which takes it as UTF-8, whatever the locale says.

    Raises:
        InvalidInputError: if the path is not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"the path {str(path)!r} is not UTF-8, which the libraries for graphs need; rename it"
        ) from error


def check_room(path: Path, needed: int, instead: str = "choose another place") -> None:
    """Refuse, before the work, to write `needed` bytes at `path` to a disk that has fewer left.

    Raises:
        InvalidInputError: names the path, what it needs, and what there is.
    """
    place = path.absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    with contextlib.suppress(OSError):  # a file system that does not tell
        disk = shutil.disk_usage(there)
        if needed > disk.free and disk.total > 0:
            raise InvalidInputError(
                f"{path} needs about {needed / 1e6:,.1f} MB, and its disk has "
                f"{disk.free / 1e6:,.1f} MB left; make room, or {instead}"
            )


def make_parent(path: Path) -> None:
    """Make the folder that `path` is to be in, unless it is there.

    Raises:
        OSError: names the folder that cannot be made, or what is there in its place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # something that is no folder
        raise NotADirectoryError(
            errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename
        ) from error


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to the file at `path`, atomically; replace the file if there is one."""
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that takes the place of `path` when the block ends without an error.

    After an error, `path` is as it was.
    """
    with _named(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            _name(error, path)  # a full disk does not say where it is
        raise
    _flush_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an error.

    A folder that already exists at `path` is replaced without asking: the caller must have checked
    that this is wanted; of a link, what it leads to. After an error, `path` is as it was. What
    killed writers left beside it is removed.
    """
    path = Path(os.path.realpath(path))
    with folder_beside(path, "partial") as temporary:
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        for inner in temporary.rglob("*"):
            if inner.is_dir():
                _flush_folder(inner)
                continue
            # Some libraries create files that only their owner may read.
            os.chmod(inner, 0o666 & ~_umask())
            _flush_file(inner)
        _flush_folder(temporary)
        _swap(temporary, path)
    _flush_folder(path.parent)


@contextmanager
def scratch_folder(needed: int) -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, as `folder_beside` does.

    Raises:
        InvalidInputError: if that disk has less than `needed` bytes left.
    """
    place = Path(tempfile.gettempdir()) / "edgegpt"
    check_room(place, needed, "name another folder with TMPDIR")
    with folder_beside(place, "scratch") as folder:
        yield folder


@contextmanager
def folder_beside(path: Path, kind: str) -> Iterator[Path]:
    """Yield an empty folder beside `path`, for files of a `kind`; remove it when the block ends.

    What killed processes left there of this kind is removed, too. An error of the system in the
    block names `path`, which users know: not a file in the folder, and a full disk names none.
    """
    make_parent(path)
    prefix = f".{path.name}.{kind}-"
    remove_leftovers(path.parent, prefix)
    with _named(path):
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
    try:
        with in_use(folder):
            yield folder
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(folder)):
            _name(error, path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of the system name `path`, not the temporary name beside it."""
    try:
        yield
    except OSError as error:
        _name(error, path)
        raise


def _name(error: OSError, path: Path) -> None:
    """Note that an error of the system was at `path`, if it is one that has a place."""
    if error.errno is not None:
        error.filename = str(path)


def _swap(new: Path, path: Path) -> None:
    """Rename `new` to `path`, and remove a folder that is there."""
    if not path.exists():
        os.rename(new, path)
        return
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)
        return
    place = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old-"))
    old = place / path.name  # not `place` itself: Windows renames nothing to a name that exists
    try:
        os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        with contextlib.suppress(OSError):  # rmdir removes only an empty folder
            os.rmdir(place)
        raise
    shutil.rmtree(place, ignore_errors=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flush_file(path: Path) -> None:
    """Flush a file to the disk. Windows does that only through a handle that may write."""
    _flush(path, os.O_RDWR)


def _flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where folders can be opened: not on Windows."""
    with contextlib.suppress(PermissionError):
        _flush(path, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
