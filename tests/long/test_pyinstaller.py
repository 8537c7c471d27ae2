"""Applications that PyInstaller freezes, in an environment without PyTorch."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from environments import ROOT, built_wheel, copied_source, environment
from page_blocks import blocks

import edgegpt

pytest.importorskip("PyInstaller", reason="PyInstaller is not installed: pip install pyinstaller")
pytestmark = pytest.mark.long

PAGE = [one for one in blocks(ROOT / "docs" / "embedding.md") if one.heading == "PyInstaller"]
COMMAND = "from edgegpt.cli import main\nmain()\n"
QUICK = ("--repeats", "1", "--tokens", "2", "--depths", "4", "--batches", "1")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment without PyTorch; programs are frozen in its folder."""
    folder = tmp_path_factory.mktemp("frozen")
    wheel = built_wheel(copied_source(folder), folder)
    return environment(folder, wheel, "cpu", "chat", tools=("pyinstaller",))


@pytest.fixture(scope="module")
def command(python: Path) -> Path:
    """The program `edgegpt`, frozen as the page says."""
    folder = python.parents[2]
    (folder / "command.py").write_text(COMMAND)
    freeze(python, folder, "--name", "edgegpt", "command.py")
    return folder / "dist" / "edgegpt" / "edgegpt"


def freeze(python: Path, folder: Path, *arguments: str) -> None:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-m", "PyInstaller", "--log-level=ERROR", *arguments],
        cwd=folder,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run(program: Path, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status, done.stderr
    return done


def test_the_page_s_program_is_frozen_by_its_lines(python: Path, page_bundle: Path) -> None:
    folder = python.parents[2]
    program, lines = (one.text for one in PAGE)
    (folder / "main.py").write_text(program)
    shutil.copytree(page_bundle, folder / "bundle")
    install, pyinstaller, copy, start = lines.splitlines()
    assert install == "pip install pyinstaller"
    name, *arguments = pyinstaller.split()
    assert name == "pyinstaller"
    freeze(python, folder, *arguments)
    subprocess.run(copy.split(), cwd=folder, check=True)
    with edgegpt.load(page_bundle) as lm:
        text = lm.generate("ROMEO:", max_new_tokens=50).text
    assert run(folder / start).stdout == f"{text}\n"
    made = folder / "dist" / "main"
    assert not list(made.rglob("click*"))  # no commands
    assert sum(one.stat().st_size for one in made.rglob("*") if not one.is_symlink()) < 250e6


def test_the_frozen_command_verifies_generates_measures_and_packs(
    command: Path, small_bundle: Path, tmp_path: Path
) -> None:
    assert run(command, "--version").stdout == f"edgegpt, version {edgegpt.__version__}\n"
    assert json.loads(run(command, "verify", small_bundle, "--json").stdout)["passed"] is True
    settings = ("--prompt", "The wind", "-t", "0", "--json")
    with edgegpt.load(small_bundle) as lm:
        ids = lm.generate("The wind", temperature=0).token_ids
    said = json.loads(run(command, "generate", small_bundle, *settings).stdout)
    assert said["token_ids"] == ids
    bench = json.loads(run(command, "bench", small_bundle, *QUICK, "--json").stdout)
    assert bench["versions"]["onnxruntime"]
    run(command, "pack", small_bundle, "--out", tmp_path / "bundle.tar")
    run(command, "unpack", tmp_path / "bundle.tar", "--out", tmp_path / "bundle")
    assert "float32" in run(command, "inspect", tmp_path / "bundle").stdout


@pytest.mark.parametrize("name", ["train", "import", "export", "build", "eval", "translate"])
def test_every_command_is_there(command: Path, name: str) -> None:
    """Those that need PyTorch say so."""
    done = subprocess.run(
        [command, name, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    told = done.stdout + done.stderr
    assert "Usage: edgegpt" in told or "needs torch, which is not installed" in told, told
    assert "Traceback" not in told


def test_doctor_says_in_one_sentence_that_it_needs_a_python(
    command: Path, small_bundle: Path
) -> None:
    for arguments in ((), (small_bundle,)):
        done = run(command, "doctor", *arguments, status=1)
        assert "`python -m edgegpt doctor` in the environment that the application was made" in (
            done.stderr
        )
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_what_is_wrong_is_one_sentence(command: Path) -> None:
    assert run(command, "verify", "nowhere", status=1).stderr == ("error: no bundle at nowhere\n")
