"""`make test` installs the npm packages of examples/web where it can, and else goes on."""

import shutil
import subprocess
from pathlib import Path

import pytest
from environments import ROOT

MAKE, TOUCH, MKDIR = (shutil.which(name) for name in ("make", "touch", "mkdir"))
TARGET = "examples/web/node_modules/.package-lock.json"
WORKS = "mkdir node_modules && touch node_modules/.package-lock.json"

pytestmark = pytest.mark.skipif(None in (MAKE, TOUCH, MKDIR), reason="this needs make")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a PATH of its own in `bin`."""
    (tmp_path / "bin").mkdir()
    for program in (TOUCH, MKDIR):
        (tmp_path / "bin" / Path(str(program)).name).symlink_to(str(program))
    (tmp_path / "examples" / "web").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "examples" / "web" / "package-lock.json", tmp_path / "examples" / "web")
    return tmp_path


def run_make(folder: Path) -> str:
    done = subprocess.run(
        [str(MAKE), TARGET],
        cwd=folder,
        env={"PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def write_npm(folder: Path, body: str) -> None:
    npm = folder / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{body}\n")
    npm.chmod(0o755)


@pytest.mark.parametrize("npm", [None, "echo unreachable >&2; exit 1"])
def test_without_npm_or_a_network_make_goes_on_and_says_what_is_skipped(
    made: Path, npm: str | None
) -> None:
    if npm:
        write_npm(made, npm)
    assert run_make(made) == (
        "npm could not install the packages of examples/web: "
        "the tests that need them are skipped.\n"
    )


def test_npm_installs_once_and_says_nothing(made: Path) -> None:
    write_npm(made, WORKS)
    assert run_make(made) == ""
    assert (made / TARGET).is_file()
    write_npm(made, "exit 1")
    assert "is up to date" in run_make(made)
