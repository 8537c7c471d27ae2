"""What is no regular file, and what is no JSON, is refused with one sentence that names it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegpt.errors import CheckpointError
from edgegpt.importers.open import open_source
from edgegpt.user_files import LARGEST, is_file, read_json, read_optional, read_text

KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "is a folder, where a file belongs"),
    "a pipe": (os.mkfifo, "is a pipe, where a file belongs"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, where a file belongs"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "is a link to gone: missing"),
    "a loop of links": (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("read", [is_file, read_text, read_json, read_optional])
def test_what_is_no_file_is_neither_read_nor_missing(
    path: Path, kind: str, read: Callable[[Path], object]
) -> None:
    make, reason = KINDS[kind]
    make(path)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert f"{path} {reason}" in str(caught.value)


def test_what_is_not_there_is_missing(path: Path) -> None:
    assert not is_file(path)
    assert read_text(path) is None
    assert read_optional(path) == {}
    with pytest.raises(CheckpointError, match=r"a\.json is missing"):
        read_json(path)
    path.write_text("{}")
    assert not is_file(path / "below")


def test_a_link_to_a_file_is_a_file(path: Path) -> None:
    path.with_name("own").write_text('{"a": 1}')
    path.symlink_to("own")
    assert read_json(path) == {"a": 1}


def test_a_byte_order_mark_is_no_part_of_the_json(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + '{"ä": 1}'.encode())
    assert read_json(path) == read_optional(path) == {"ä": 1}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is not readable JSON: Expecting value"),
        (b"{", "is not readable JSON: Expecting"),
        (b"[1]", "is not a JSON object"),
        (b"[" * 100_000, "is not readable JSON: maximum recursion depth"),
        (b'{"a":' * 100_000, "is not readable JSON: maximum recursion depth"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not readable JSON: Exceeds the limit"),
        (rb'{"a": "\ud800"}', "is not readable JSON: 'utf-8' codec can't encode"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8 text"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_json_object_is_refused(path: Path, raw: bytes, reason: str) -> None:
    path.write_bytes(raw)
    for read in (read_json, read_optional):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert f"{path} {reason}" in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_file_that_git_lfs_has_not_fetched_is_named_as_such(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    for read in (read_json, read_text, open_source):
        with pytest.raises(CheckpointError, match=f"{path} only stands for a file of Git LFS"):
            read(path)


def test_a_file_that_is_too_large_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CheckpointError, match="has 134,217,729 bytes; at most 134,217,728 are"):
        read_json(path)
    path.write_bytes(b"12345")
    with pytest.raises(CheckpointError, match="has 5 bytes; at most 4 are read"):
        read_text(path, 4)
