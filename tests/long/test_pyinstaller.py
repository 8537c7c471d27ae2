"""Applications that PyInstaller freezes, in an environment without PyTorch."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from environments import built_wheel, copied_source, environment

import edgegpt

pytest.importorskip("PyInstaller", reason="PyInstaller is not installed: pip install pyinstaller")
pytestmark = pytest.mark.long

PROGRAM = """
import sys
import edgegpt

with edgegpt.load(sys.argv[1]) as lm:
    print(lm.generate("The wind", max_new_tokens=30, temperature=0).text, end="")
"""
COMMAND = "from edgegpt.cli import main\nmain()\n"
QUICK = ("--repeats", "1", "--tokens", "2", "--depths", "4", "--batches", "1")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A program that loads a bundle and the command, each frozen as a folder."""
    folder = tmp_path_factory.mktemp("frozen")
    python = environment(
        folder, built_wheel(copied_source(folder), folder), "cpu", "chat", tools=("pyinstaller",)
    )
    made = {}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name, text in {"program": PROGRAM, "edgegpt": COMMAND}.items():
        (folder / "main.py").write_text(text)
        command = [python, "-m", "PyInstaller", "--log-level=ERROR", "--name", name, "main.py"]
        done = subprocess.run(
            command, cwd=folder, env=own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        made[name] = folder / "dist" / name
    return made


def run(folder: Path, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [folder / folder.name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status, done.stderr
    return done


def test_a_frozen_program_generates_and_brings_no_commands(
    frozen: dict[str, Path], small_bundle: Path
) -> None:
    with edgegpt.load(small_bundle) as lm:
        text = lm.generate("The wind", max_new_tokens=30, temperature=0).text
    assert run(frozen["program"], small_bundle).stdout == text
    assert not list(frozen["program"].rglob("click*"))
    size = sum(one.stat().st_size for one in frozen["program"].rglob("*") if not one.is_symlink())
    assert size < 250e6


def test_the_frozen_command_verifies_generates_measures_and_packs(
    frozen: dict[str, Path], small_bundle: Path, tmp_path: Path
) -> None:
    command = frozen["edgegpt"]
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


@pytest.mark.parametrize("command", ["train", "import", "export", "build", "eval", "translate"])
def test_every_command_is_there(frozen: dict[str, Path], command: str) -> None:
    """Those that need PyTorch say so."""
    done = subprocess.run(
        [frozen["edgegpt"] / "edgegpt", command, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    told = done.stdout + done.stderr
    assert "Usage: edgegpt" in told or "needs torch, which is not installed" in told, told
    assert "Traceback" not in told


def test_doctor_says_in_one_sentence_that_it_needs_a_python(
    frozen: dict[str, Path], small_bundle: Path
) -> None:
    for arguments in ((), (small_bundle,)):
        done = run(frozen["edgegpt"], "doctor", *arguments, status=1)
        assert "`python -m edgegpt doctor` in the environment that the application was made" in (
            done.stderr
        )
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_what_is_wrong_is_one_sentence(frozen: dict[str, Path]) -> None:
    assert run(frozen["edgegpt"], "verify", "nowhere", status=1).stderr == (
        "error: no bundle at nowhere\n"
    )
