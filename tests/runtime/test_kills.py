"""A writer that is killed at any moment leaves the old folder or the new one: never half of it.

The writer is killed before each thing that it asks of the system, one after another: no moment is
left out, and none depends on the speed of the machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgegpt.runtime.files import folder_beside, new_folder

# Copies the folder `new` to `target`, which has a copy of `old` if there is one, in children. The
# n-th child kills itself before its n-th audited event. Prints for each child what there is then.
CAMPAIGN = """
import contextlib, json, os, shutil, signal, sys
from pathlib import Path
from edgegpt.runtime import files

new, old, place = map(Path, sys.argv[1:4])
target = place / "target"
if "two steps" in sys.argv:
    files.exchange = lambda new, old: False
if "in place" in sys.argv:
    files.new_folder = contextlib.contextmanager(lambda path: iter([path.mkdir() or path]))

def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None

def write(number):
    left = [number]

    def kill(event, arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    prepared = contents(new)
    sys.addaudithook(kill)
    with files.new_folder(target) as folder:
        for name, data in prepared.items():
            (folder / name).write_bytes(data)
    os._exit(0)

states = {"none": None, "new": contents(new), "old": contents(old)}
number, killed = 0, True
while killed:
    number += 1
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if old.exists():
        shutil.copytree(old, target)
    child = os.fork() or write(number)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = contents(target)
    state = next((name for name, expected in states.items() if found == expected), "half")
    beside = contents(old) in [contents(path) for path in place.glob(".target.old-*/target")]
    print(json.dumps([state, beside]), flush=True)
"""
FILES = 5


def states(tmp_path: Path, *mode: str) -> list[tuple[str, bool]]:
    """Return what each kill left, the last writer's, whom nobody killed, too.

    The first of a pair is "none", "old", "new" or "half"; the second, whether the old folder stands
    beside the target.
    """
    arguments = [str(tmp_path / name) for name in ("new", "old", "place")]
    ran = subprocess.run(
        [sys.executable, "-c", CAMPAIGN, *arguments, *mode],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [tuple(json.loads(line)) for line in ran.stdout.splitlines()]
    assert len(found) > FILES  # a moment for each, at least
    assert found[-1] == ("new", False)
    return found


@pytest.fixture
def new(tmp_path: Path) -> None:
    fill(tmp_path / "new", "new")


@pytest.fixture
def old(tmp_path: Path) -> None:
    fill(tmp_path / "old", "old")


def fill(folder: Path, text: str) -> None:
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{text}{number}").write_text(text * 1000 * number)


@pytest.mark.usefixtures("new")
def test_a_killed_writer_of_a_new_folder_leaves_all_of_it_or_none(tmp_path: Path) -> None:
    assert {state for state, _ in states(tmp_path)} == {"none", "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems may not exchange names")
@pytest.mark.usefixtures("new", "old")
def test_a_killed_replacement_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    assert {state for state, _ in states(tmp_path)} == {"old", "new"}


@pytest.mark.usefixtures("new", "old")
def test_where_names_cannot_be_exchanged_the_old_folder_may_be_left_beside(tmp_path: Path) -> None:
    found = states(tmp_path, "two steps")
    assert {state for state, _ in found} == {"none", "old", "new"}
    assert all(beside for state, beside in found if state == "none")


@pytest.mark.usefixtures("new")
def test_a_writer_in_place_would_be_noticed(tmp_path: Path) -> None:
    assert "half" in {state for state, _ in states(tmp_path, "in place")}


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    killed = tmp_path / ".target.partial-killed"
    other = tmp_path / ".another.partial-killed"
    for folder in (killed, other):
        fill(folder, "half")
        os.utime(folder, (0, 0))  # long ago
    with new_folder(tmp_path / "target") as folder:
        os.utime(folder, (0, 0))
        with new_folder(tmp_path / "target") as second:  # a writer at the same time
            assert folder.exists()
            assert second != folder
        (folder / "a").write_text("new")
    assert (tmp_path / "target" / "a").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"target", other.name}


def test_of_each_kind_of_folder_the_next_one_removes_what_a_killed_process_left(
    tmp_path: Path,
) -> None:
    names = [".target.import-killed", ".target.partial-killed"]
    for name in names:
        fill(tmp_path / name, "half")
        os.utime(tmp_path / name, (0, 0))  # long ago
    with folder_beside(tmp_path / "target", "import"):
        assert not (tmp_path / names[0]).exists()
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


def test_a_young_folder_may_be_of_a_writer_that_does_not_hold_it_yet(tmp_path: Path) -> None:
    fill(tmp_path / ".target.partial-young", "half")
    with new_folder(tmp_path / "target"):
        pass
    assert (tmp_path / ".target.partial-young").exists()
