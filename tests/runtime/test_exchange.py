"""Two folders that take each other's name in one step."""

import sys
from pathlib import Path

import pytest

from edgegpt.runtime import exchange as module
from edgegpt.runtime.exchange import exchange


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "one", tmp_path / "two"


def contents(folders: tuple[Path, Path]) -> list[str]:
    return [(folder / "file").read_text() for folder in folders]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems may not have it")
def test_linux_exchanges_two_folders(folders: tuple[Path, Path]) -> None:
    assert exchange(*folders)
    assert contents(folders) == ["two", "one"]


def test_where_one_is_missing_nothing_changes(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    assert not exchange(folders[0], tmp_path / "missing")
    assert contents(folders) == ["one", "two"]


@pytest.mark.parametrize("platform", ["win32", "freebsd14"])
def test_another_system_says_that_it_cannot(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(module.sys, "platform", platform)
    assert not exchange(*folders)
    assert contents(folders) == ["one", "two"]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_an_old_c_library_says_that_it_cannot(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(module.sys, "platform", platform)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: object())
    assert not exchange(*folders)
    assert contents(folders) == ["one", "two"]
