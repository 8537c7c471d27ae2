"""Files and folders come wholly or not at all, leave nothing beside, and follow the umask."""

import errno
import os
import stat
import sys

import pytest

from edgegpt.runtime import files
from edgegpt.runtime.errors import InvalidInputError
from edgegpt.runtime.files import library_path, new_file, new_folder, write_file


class Interruption(BaseException):
    """Like Ctrl-C, a BaseException that is not an Exception."""


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(params=[OSError("no space left"), Interruption()], ids=["error", "interruption"])
def failure(request):
    return request.param


def failing(failure: BaseException):
    def fail(*args, **settings):
        raise failure

    return fail


def names(folder) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fill(folder, mark: str) -> None:
    (folder / "deep").mkdir()
    (folder / "a").write_text(mark)
    (folder / "deep" / "b").write_text(mark)


def contents(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build_and_fail(folder, failure: BaseException) -> None:
    with new_folder(folder) as building:
        fill(building, "new")
        raise failure


@pytest.mark.parametrize("data", [b"", b"new", b"x" * 3_000_000])
def test_a_written_file_is_complete_and_alone(tmp_path, data):
    write_file(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert names(tmp_path) == {"file"}


def test_a_written_file_takes_the_place_of_the_old_one(tmp_path):
    (tmp_path / "file").write_bytes(b"old, and longer")
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace", "fdopen"])
def test_after_a_failure_the_old_file_stands_alone(tmp_path, monkeypatch, failure, step):
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(files.os, step, failing(failure))
    with pytest.raises(type(failure)):
        write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_data_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_file(tmp_path / "file", "text")
    assert names(tmp_path) == set()


def test_a_disk_that_is_full_is_told_with_the_path(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left.*a\.bin'") as caught,
        new_file(tmp_path / "a.bin"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a.bin")
    with pytest.raises(FileNotFoundError) as caught, new_file(tmp_path / "a.bin"):
        (tmp_path / "gone").open()
    assert caught.value.filename == str(tmp_path / "gone")


def test_a_file_is_flushed_to_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda *a: (order.append("replace"), replace(*a)))
    write_file(tmp_path / "file", b"new")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, and the folder


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask):
    write_file(tmp_path / "file", b"new")
    assert mode(tmp_path / "file") == 0o666 & ~umask
    assert files._umask() == umask


def test_a_new_folder_appears_whole_at_the_end_of_its_block(tmp_path):
    with new_folder(tmp_path / "folder") as building:
        assert list(building.iterdir()) == []
        assert building.parent == tmp_path  # the rename must stay on one file system
        fill(building, "new")
        assert not (tmp_path / "folder").exists()
    assert contents(tmp_path / "folder") == {"a": "new", "deep/b": "new"}
    assert names(tmp_path) == {"folder"}


@pytest.fixture(params=["one step", "two steps"])
def steps(request, monkeypatch):
    """Replace a folder as this system does, and as one that cannot exchange two names."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "exchange", lambda new, old: False)
    return request.param


def test_a_new_folder_takes_the_place_of_an_old_one(tmp_path, steps):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", "old")
    (tmp_path / "folder" / "more").write_text("old")
    with new_folder(tmp_path / "folder") as building:
        fill(building, "new")
        assert contents(tmp_path / "folder")["a"] == "old"
    assert contents(tmp_path / "folder") == {"a": "new", "deep/b": "new"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize("old", [True, False])
def test_after_a_failure_inside_the_block_all_is_as_it_was(tmp_path, failure, old):
    if old:
        (tmp_path / "folder").mkdir()
        fill(tmp_path / "folder", "old")
    before = names(tmp_path)
    with pytest.raises(type(failure)):
        build_and_fail(tmp_path / "folder", failure)
    assert names(tmp_path) == before
    assert not old or contents(tmp_path / "folder") == {"a": "old", "deep/b": "old"}


@pytest.mark.parametrize("broken_call", [1, 2])
def test_after_a_failed_rename_the_old_folder_stands_alone(
    tmp_path, monkeypatch, failure, broken_call
):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", "old")
    monkeypatch.setattr(files, "exchange", lambda new, old: False)
    calls, rename = [], os.rename

    def breaking(source, target):
        calls.append(target)
        if len(calls) == broken_call:
            raise failure
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", breaking)
    with pytest.raises(type(failure)), new_folder(tmp_path / "folder") as building:
        fill(building, "new")
    assert contents(tmp_path / "folder") == {"a": "old", "deep/b": "old"}
    assert names(tmp_path) == {"folder"}


def test_after_a_failed_exchange_the_old_folder_stands_alone(tmp_path, monkeypatch, failure):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", "old")
    monkeypatch.setattr(files, "exchange", failing(failure))
    with pytest.raises(type(failure)), new_folder(tmp_path / "folder") as building:
        fill(building, "new")
    assert contents(tmp_path / "folder") == {"a": "old", "deep/b": "old"}
    assert names(tmp_path) == {"folder"}


def test_after_a_failed_flush_nothing_of_the_new_folder_is_left(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(files.os, "fsync", failing(failure))
    with pytest.raises(type(failure)), new_folder(tmp_path / "folder") as building:
        fill(building, "new")
    assert names(tmp_path) == set()


def test_a_file_in_the_way_of_a_folder_stays_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match="folder"), new_folder(tmp_path / "folder") as building:
        fill(building, "new")
    assert (tmp_path / "folder").read_text() == "a file"
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize("old", [True, False])
def test_of_a_link_what_it_leads_to_is_written(tmp_path, old):
    if old:
        (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with new_folder(tmp_path / "link") as building:
        fill(building, "new")
    assert os.readlink(tmp_path / "link") == "folder"
    assert contents(tmp_path / "folder")["a"] == "new"
    assert names(tmp_path) == {"folder", "link"}


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="the test names a UTF-8 path")
def test_a_library_gets_a_path_in_utf_8_or_an_error():
    assert library_path(files.Path("a/ü")) == "a/ü"
    with pytest.raises(InvalidInputError, match=r"'a/.udcff' is not UTF-8"):
        library_path(files.Path("a/\udcff"))


def test_a_place_that_takes_no_file_is_told_by_the_name_that_was_to_be(tmp_path, monkeypatch):
    def refused(*_, dir, prefix):
        raise PermissionError(errno.EACCES, "denied", f"{dir}/{prefix}abc")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    monkeypatch.setattr(files.tempfile, "mkdtemp", refused)
    for new in (new_file, new_folder):
        with pytest.raises(PermissionError) as caught, new(tmp_path / "new"):
            pass
        assert caught.value.filename == str(tmp_path / "new")


def test_missing_parents_are_made(tmp_path):
    with new_folder(tmp_path / "one" / "two" / "folder") as building:
        fill(building, "new")
    assert contents(tmp_path / "one" / "two" / "folder")["a"] == "new"


def test_a_relative_path_is_meant_from_where_the_block_began(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with new_folder(files.Path("folder")) as building:
        fill(building, "new")
        os.chdir(tmp_path / "elsewhere")
    assert names(tmp_path) == {"folder", "elsewhere"}
    assert names(tmp_path / "elsewhere") == set()


def test_a_new_folder_and_its_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask):
    with new_folder(tmp_path / "folder") as building:
        fill(building, "new")
        (building / "a").chmod(0o600)  # as some libraries do
    assert mode(tmp_path / "folder") == 0o777 & ~umask
    assert mode(tmp_path / "folder" / "deep") == 0o777 & ~umask
    assert mode(tmp_path / "folder" / "a") == 0o666 & ~umask
    assert mode(tmp_path / "folder" / "deep" / "b") == 0o666 & ~umask


def test_every_file_and_folder_is_flushed_before_the_folder_takes_its_name(tmp_path, monkeypatch):
    flushed, fsync, rename = [], os.fsync, os.rename

    def noting(handle):
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renaming(source, target):
        flushed.append("RENAME")
        rename(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see which file a handle is")
    monkeypatch.setattr(files.os, "fsync", noting)
    monkeypatch.setattr(files.os, "rename", renaming)
    with new_folder(tmp_path / "folder") as building:
        fill(building, "new")
    before = flushed[: flushed.index("RENAME")]
    assert set(before) == {"a", "b", "deep", building.name}
    assert flushed[-1] == tmp_path.name
