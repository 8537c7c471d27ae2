"""Pack a bundle into one tar file, and unpack it.

The archive holds the manifest first, then the files that it lists, without owners or dates, so that
the same bundle always gives the same archive. Unpacking does not trust the archive: it writes only
plain files that the manifest lists, and compares each with its size and SHA-256.
"""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import IO

from ..errors import BundleError
from ..files import check_room, make_parent, new_file, new_folder
from .bundle import RECEIPT_NAME, Bundle
from .manifest import MANIFEST_NAME, Manifest

__all__ = ["pack", "unpack"]

CHUNK = 1 << 20
LARGEST_TEXT = 64 << 20  # bytes of a manifest or a receipt


def pack(bundle: Bundle, out: Path) -> None:
    """Write `bundle` to the tar file `out`, atomically, after checking its hashes."""
    if out.exists():
        raise BundleError(f"{out} exists already; choose another file")
    check_room(out, sum(entry.size for entry in bundle.manifest.files.values()))
    bundle.check_hashes()
    names = [MANIFEST_NAME, *sorted(bundle.manifest.files)]
    if (bundle.folder / RECEIPT_NAME).is_file():
        names.append(RECEIPT_NAME)
    make_parent(out)
    with (
        new_file(out) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            _add(archive, bundle.folder / name, name)


def unpack(archive_path: Path, out: Path) -> Bundle:
    """Unpack the tar file into the new folder `out`, atomically, and open the bundle."""
    if out.exists():
        raise BundleError(f"{out} exists already; choose another folder")
    if not archive_path.is_file():
        raise BundleError(f"no packed bundle at {archive_path}")
    try:
        with tarfile.open(archive_path, mode="r:") as archive, new_folder(out) as folder:
            _extract(archive, folder, out)
    except (tarfile.TarError, OverflowError) as error:  # the latter by sizes that none could have
        raise BundleError(f"{archive_path} is not a whole tar file: {error}") from error
    return Bundle.open(out)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = path.stat().st_size
    entry.mode = 0o644
    with path.open("rb") as file:
        archive.addfile(entry, file)


def _extract(archive: tarfile.TarFile, folder: Path, out: Path) -> None:
    """Write the archive's files to `folder`, which is to become `out`."""
    first = archive.next()
    if first is None or first.name != MANIFEST_NAME:
        raise BundleError(f"the archive does not begin with {MANIFEST_NAME}; it is not a bundle")
    text = _read_text(archive, first)
    try:
        manifest = Manifest.parse(text)
    except BundleError as error:
        raise BundleError(f"the archive's {error}") from error
    check_room(out, sum(entry.size for entry in manifest.files.values()))
    (folder / MANIFEST_NAME).write_bytes(text)
    missing = {*manifest.files, RECEIPT_NAME}
    while entry := archive.next():
        if entry.name not in missing:  # or comes again, as by a negative size, which leads back
            raise BundleError(f"the archive holds {entry.name!r}, which its manifest does not list")
        missing.remove(entry.name)
        expected = manifest.files.get(entry.name)
        if expected is None:
            (folder / RECEIPT_NAME).write_bytes(_read_text(archive, entry))
        elif entry.size != expected.size:
            raise BundleError(f"{entry.name} in the archive has the wrong size")
        else:
            (folder / entry.name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / entry.name).open("wb") as file:
                if _copy(_open(archive, entry), file) != expected.sha256:
                    raise BundleError(f"{entry.name} in the archive is damaged")
    missing.discard(RECEIPT_NAME)  # a bundle may have none
    if missing:
        raise BundleError(f"the archive lacks {', '.join(sorted(missing))}")


def _open(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(entry) if entry.isreg() else None
    if file is None:
        raise BundleError(f"{entry.name!r} in the archive is not a plain file")
    return file


def _read_text(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    if entry.size > LARGEST_TEXT:
        raise BundleError(f"{entry.name} in the archive is too large to be one")
    buffer = io.BytesIO()
    _copy(_open(archive, entry), buffer)
    return buffer.getvalue()


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy everything and return its SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
