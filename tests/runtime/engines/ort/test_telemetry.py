"""ONNX Runtime sends no telemetry; if it did, it would cache an identifier of the device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# If one of these variables is set, ONNX Runtime sends nothing by default.
SILENCED_BY = ("CI", "ORT_DISABLE_TELEMETRY", "TF_BUILD", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")


def _run(code: str, home: Path, **more: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in SILENCED_BY}
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment = {**kept, **folders, **more}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


# `doctor` tries the engine in a process of its own.
@pytest.mark.parametrize(
    "code",
    [
        "import edgegpt; edgegpt.load({bundle!r}).generate('The')",
        "from edgegpt.cli import main; main(['doctor', {bundle!r}])",
    ],
    ids=["generate", "doctor"],
)
def test_no_trace_of_telemetry_is_left(small_bundle: Path, tmp_path: Path, code: str) -> None:
    _run(code.format(bundle=str(small_bundle)), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("value", ["0", "1"])
def test_who_has_decided_otherwise_is_not_overruled(tmp_path: Path, value: str) -> None:
    code = "import edgegpt, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _run(code, tmp_path, ORT_DISABLE_TELEMETRY=value).strip() == value
