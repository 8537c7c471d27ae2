"""What is kept on the disk: shown, removed, and held within a limit."""

import json
import os
from pathlib import Path

import pytest

from edgegpt.cli import main
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.cache import LIMIT, keep_within_limit, kept, parse_size, remove, touch

SIZE = 1000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgegpt"


def native(folder: Path, bundle: str, name: str, used: float) -> Path:
    place = folder / "engines" / bundle / name
    place.mkdir(parents=True)
    (place / "libedgegpt.so").write_bytes(bytes(SIZE))
    os.utime(place, (used, used))
    return place


def tensorrt(folder: Path, bundle: str, name: str, used: float) -> Path:
    place = folder / "engines" / bundle
    place.mkdir(parents=True, exist_ok=True)
    for path in (place / f"{name}.json", place / f"{name}.abc.engine"):
        path.write_bytes(bytes(SIZE // 2))
        os.utime(path, (used, used))
    return place / f"{name}.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["cache", *map(str, arguments)])
    captured = capsys.readouterr()
    assert bool(ended.value.code) == captured.err.startswith("error")
    return captured.out or captured.err


def test_all_that_is_kept_is_listed_the_last_used_first(folder: Path, capsys) -> None:
    native(folder, "a" * 64, "1" * 32, 100.0)
    tensorrt(folder, "b" * 64, "2" * 32, 300.0)
    (folder / "tinyshakespeare.txt").write_bytes(bytes(5))
    os.utime(folder / "tinyshakespeare.txt", (200.0, 200.0))
    (folder / "engines" / ("a" * 64) / ".partial-x").mkdir()
    assert [(one.kind, one.name, one.size) for one in kept()] == [
        ("engine", "bbbbbbbbbbbb/22222222", SIZE),
        ("text", "tinyshakespeare.txt", 5),
        ("engine", "aaaaaaaaaaaa/11111111", SIZE),
    ]
    assert len(json.loads(run(capsys, "list", "--json"))) == 3
    told = run(capsys, "list")
    assert "3 things" in told
    assert str(folder) in told


def test_an_empty_cache_is_no_error(capsys) -> None:
    assert run(capsys, "list").startswith("nothing in")
    assert run(capsys, "clear") == "removed 0 things, 0.0 MB\n"


def test_clear_removes_all_or_what_was_not_used_for_longest(folder: Path, capsys) -> None:
    for number in range(4):
        native(folder, "a" * 64, str(number) * 32, float(number))
    assert run(capsys, "clear", "--down-to", "2KB") == "removed 2 things, 0.0 MB\n"
    assert [one.name[-1] for one in kept()] == ["3", "2"]
    run(capsys, "clear")
    assert kept() == []
    assert not (folder / "engines" / ("a" * 64)).exists()


def test_clear_can_be_of_one_bundle(folder: Path, small_bundle: Path, capsys) -> None:
    native(folder, Bundle.open(small_bundle).manifest.id, "1" * 32, 1.0)
    other = native(folder, "a" * 64, "2" * 32, 2.0)
    run(capsys, "clear", "--bundle", small_bundle)
    assert [one.paths for one in kept()] == [(other,)]
    assert "not both" in run(capsys, "clear", "--bundle", small_bundle, "--down-to", "1GB")


def test_a_build_keeps_engines_within_the_limit_but_always_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [native(folder, "a" * 64, str(number) * 32, float(number)) for number in range(3)]
    keep_within_limit()
    assert len(kept()) == 3  # without the variable there is no limit
    touch(places[0])
    monkeypatch.setenv(LIMIT, "2 KB")
    keep_within_limit()
    assert [one.paths[0] for one in kept()] == [places[0], places[2]]
    monkeypatch.setenv(LIMIT, "x")
    with pytest.raises(InvalidInputError, match=f"^{LIMIT}: 'x'"):
        keep_within_limit()
    monkeypatch.setenv(LIMIT, "1")
    keep_within_limit()
    assert [one.paths[0] for one in kept()] == [places[0]]


def test_what_is_gone_already_is_no_error(folder: Path) -> None:
    tensorrt(folder, "b" * 64, "2" * 32, 300.0)
    found = kept()
    remove(found)
    remove(found)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), (" 3k ", 3000)],
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    assert parse_size(text, "it") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "2 PB", "nan", "1" * 400])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^it: .* is no size; write it as 500MB or 2GB"):
        parse_size(text, "it")
