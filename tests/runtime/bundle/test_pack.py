"""Packed bundles: a round trip, the same bytes each time, and archives that must be refused."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import FORMAT_VERSION
from edgegpt.runtime.bundle.pack import pack, unpack
from edgegpt.runtime.errors import BundleError
from edgegpt.runtime.proof.verify import verify


@pytest.fixture
def packed(small_bundle: Path, tmp_path: Path) -> Path:
    pack(Bundle.open(small_bundle), tmp_path / "small.tar")
    return tmp_path / "small.tar"


def rewritten(packed: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """Return another archive, with the entries of `packed` after `change` has edited their list."""
    with tarfile.open(packed) as archive:
        entries = [(entry, archive.extractfile(entry).read()) for entry in archive]
    change(entries)
    out = packed.with_name("changed.tar")
    with tarfile.open(out, "w") as archive:
        for entry, data in entries:
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return out


def test_a_round_trip_gives_a_bundle_that_verifies(packed: Path, small_bundle: Path) -> None:
    bundle = unpack(packed, packed.parent / "again")
    assert bundle.manifest.id == Bundle.open(small_bundle).manifest.id
    assert verify(bundle).passed
    assert (bundle.folder / "receipt.json").is_file()


def test_an_archive_may_be_read_by_whom_other_files_may(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    assert packed.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_packing_twice_gives_the_same_bytes(packed: Path, small_bundle: Path) -> None:
    pack(Bundle.open(small_bundle), packed.with_name("second.tar"))
    assert packed.with_name("second.tar").read_bytes() == packed.read_bytes()


def test_an_archive_may_be_read_by_whom_the_umask_lets(small_bundle: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        pack(Bundle.open(small_bundle), tmp_path / "small.tar")
    finally:
        os.umask(before)
    assert (tmp_path / "small.tar").stat().st_mode & 0o777 == 0o640


def test_an_existing_file_or_folder_is_not_replaced(packed: Path, small_bundle: Path) -> None:
    with pytest.raises(BundleError, match="exists already"):
        pack(Bundle.open(small_bundle), packed)
    with pytest.raises(BundleError, match="exists already"):
        unpack(packed, packed.parent)


def test_a_damaged_bundle_is_not_packed(bundle_copy: Path, tmp_path: Path) -> None:
    raw = bytearray((bundle_copy / "tokenizer.json").read_bytes())
    raw[-3] ^= 1
    (bundle_copy / "tokenizer.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"tokenizer\.json.*damaged"):
        pack(Bundle.open(bundle_copy), tmp_path / "x.tar")
    assert not list(tmp_path.glob("*x.tar*"))


def drop_weights(entries: list) -> None:
    entries[:] = [pair for pair in entries if pair[0].name != "weights.safetensors"]


def drop_manifest(entries: list) -> None:
    del entries[0]


def flip_byte(entries: list) -> None:
    entry, data = entries[2]
    entries[2] = (entry, data[:-1] + bytes([data[-1] ^ 1]))


def cut_short(entries: list) -> None:
    entries[2] = (entries[2][0], entries[2][1][:-1])


def of_an_older_format(entries: list) -> None:
    now, before = (f'"format_version": {n}'.encode() for n in (FORMAT_VERSION, FORMAT_VERSION - 1))
    data = entries[0][1].replace(now, before)
    entries[0] = (entries[0][0], data)


def climb_out(entries: list) -> None:
    entries.append((tarfile.TarInfo("../climbed"), b"out"))


def absolute(entries: list) -> None:
    entries.append((tarfile.TarInfo("/tmp/edgegpt-climbed"), b"out"))


def twice(entries: list) -> None:
    entries.append(entries[2])


def link(entries: list) -> None:
    entry = tarfile.TarInfo(entries[2][0].name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    entries[2] = (entry, b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_weights, r"lacks weights\.safetensors"),
        (drop_manifest, "does not begin with"),
        (of_an_older_format, r"^the archive's edgegpt\.json has format version \d; this"),
        (flip_byte, "is damaged"),
        (cut_short, "wrong size"),
        (climb_out, r"'\.\./climbed', which its manifest does not list"),
        (absolute, "which its manifest does not list"),
        (twice, "which its manifest does not list"),
        (link, "wrong size|not a plain file"),
    ],
)
def test_an_archive_that_is_not_the_bundle_is_refused_and_leaves_nothing(
    packed: Path, change: Callable[[list], None], message: str
) -> None:
    archive = rewritten(packed, change)
    before = set(os.listdir(packed.parent))
    with pytest.raises(BundleError, match=message):
        unpack(archive, packed.parent / "out")
    assert set(os.listdir(packed.parent)) == before


@pytest.mark.parametrize("size", [0, 10, 600, 5000, -700])
def test_an_archive_that_was_cut_off_is_refused(packed: Path, size: int) -> None:
    raw = packed.read_bytes()
    cut = packed.with_name("cut.tar")
    # A tar file ends in up to 10 KiB of zeros, which hold no data.
    cut.write_bytes(raw.rstrip(b"\0")[:size])
    with pytest.raises(BundleError):
        unpack(cut, packed.parent / "out")
    assert not (packed.parent / "out").exists()


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (tarfile.REGTYPE, -512, "'receipt.json', which its manifest does not list"),  # leads back
        (tarfile.XHDTYPE, 1 << 70, "not a whole tar file"),
    ],
)
def test_an_archive_with_an_impossible_size_is_refused(
    packed: Path, kind: bytes, size: int, message: str
) -> None:
    header = tarfile.TarInfo("receipt.json")
    header.type, header.size = kind, size
    archive = packed.with_name("strange.tar")
    raw = packed.read_bytes()
    with tarfile.open(packed) as whole:
        receipt = whole.getmember("receipt.json").offset
    archive.write_bytes(raw[:receipt] + header.tobuf(tarfile.GNU_FORMAT) + raw[receipt:])
    with pytest.raises(BundleError, match=message):
        unpack(archive, packed.parent / "out")
    assert not (packed.parent / "out").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.tar").write_text("dear")
    with pytest.raises(BundleError, match="not a whole tar file"):
        unpack(tmp_path / "letter.tar", tmp_path / "out")
    with pytest.raises(BundleError, match="no packed bundle"):
        unpack(tmp_path / "nowhere.tar", tmp_path / "out")
