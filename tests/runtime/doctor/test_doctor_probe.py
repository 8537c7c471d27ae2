"""How `edgegpt doctor` asks this machine: software that crashes or hangs must not stop it."""

import os
import sys
import time
from pathlib import Path

import pytest

from edgegpt.runtime.doctor import report
from edgegpt.runtime.doctor.diagnosis import Finding, diagnose
from edgegpt.runtime.doctor.probe import LocalProbe, Ran
from edgegpt.runtime.doctor.report import examine
from edgegpt.runtime.doctor.trial import told

posix = pytest.mark.skipif(os.name != "posix", reason="makes programs as shell scripts")


class Deaf(LocalProbe):
    """A machine without /proc, /sys, CUDA, or programs, like Windows and macOS without a GPU."""

    def read(self, path: str) -> str | None:
        return None

    def glob(self, pattern: str) -> list[str]:
        return []

    def run(self, command: object, seconds: float) -> Ran | None:
        return None


def _runtime(probe: LocalProbe) -> Finding:
    (found,) = [f for f in diagnose(examine(probe)).findings if f.subject == "ONNX Runtime"]
    return found


@pytest.fixture
def fake_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a module `onnxruntime` of a text, found before the real one."""

    def write(text: str) -> None:
        (tmp_path / "onnxruntime.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


def _program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_this_machine_computes_in_a_session() -> None:
    facts = told(LocalProbe().trial("provider", "CPUExecutionProvider").out)
    assert facts["loaded"] == ["CPUExecutionProvider"]
    assert facts["computed"] is True


def test_a_provider_that_is_not_in_the_build_is_not_loaded() -> None:
    facts = told(LocalProbe().trial("provider", "NoSuchExecutionProvider").out)
    assert "loaded" not in facts
    assert "CPUExecutionProvider" in facts["available"]


def test_a_module_that_is_not_installed_is_told() -> None:
    facts = told(LocalProbe().trial("tensorrt", "no_such_module").out)
    assert facts == {"error": "ModuleNotFoundError: No module named 'no_such_module'"}


def test_a_machine_that_tells_nothing_is_still_examined() -> None:
    found = diagnose(examine(Deaf()))
    assert found.works("cpu")
    assert found.choice.backend == "cpu"


@posix
def test_a_program_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"echo begun; sleep 60 & echo $! > {tmp_path}/child; wait"
    _program(tmp_path, "hangs", script, monkeypatch)
    begun = time.monotonic()
    ran = LocalProbe().run(("hangs",), 3)
    assert ran is not None
    assert ran.code is None
    assert ran.out == "begun\n"
    assert time.monotonic() - begun < 50
    child = int((tmp_path / "child").read_text())
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    for _ in range(100):
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.05)
    return True


@posix
def test_a_driver_that_hangs_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "nvidia-smi", "sleep 60", monkeypatch)
    monkeypatch.setattr(report, "PROGRAM_SECONDS", 2)
    found = diagnose(examine(LocalProbe()))
    assert any("the driver hangs" in finding.text for finding in found.findings)
    assert found.works("cpu")


def test_a_program_that_is_not_there_is_none() -> None:
    assert LocalProbe().run(("no-such-program-anywhere",), 1) is None


@posix
def test_a_program_that_cannot_be_executed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").write_bytes(b"\x7fELF nothing")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert LocalProbe().run(("broken",), 1) is None


def test_a_runtime_that_hangs_is_broken(fake_runtime) -> None:
    fake_runtime("import time\ntime.sleep(60)\n")
    begun = time.monotonic()
    finding = _runtime(LocalProbe(trial_seconds=2))
    assert time.monotonic() - begun < 45
    assert finding.status == "broken"
    assert "did not end in time" in finding.text


def test_a_runtime_that_crashes_is_broken(fake_runtime) -> None:
    fake_runtime("import os\nos.abort()\n")
    finding = _runtime(LocalProbe())
    assert finding.status == "broken"
    assert "crashed with exit code" in finding.text


def test_a_runtime_that_cannot_be_imported_says_why(fake_runtime) -> None:
    fake_runtime("print('edgegpt')\nraise ImportError('libodd.so.1: no such file')\n")
    finding = _runtime(LocalProbe())
    assert finding.status == "broken"
    assert "cannot be imported: ImportError: libodd.so.1: no such file" in finding.text
    assert finding.remedy[0] == "pip uninstall -y onnxruntime"


def test_a_runtime_that_falls_back_in_silence_does_not_work(fake_runtime) -> None:
    fake_runtime(
        "__version__ = '1.31.1'\n"
        "def get_available_providers(): return ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
        "class SessionOptions:\n"
        "    def add_session_config_entry(self, name, value): pass\n"
        "class InferenceSession:\n"
        "    def __init__(self, *_, **__): pass\n"
        "    def get_providers(self): return ['CPUExecutionProvider']\n"
        "    def run(self, names, feeds): return [feeds['x'] @ feeds['x']]\n"
    )
    providers = {p.name: p.works for p in examine(LocalProbe()).onnxruntime.providers}
    assert providers == {"CPUExecutionProvider": True, "CUDAExecutionProvider": False}


def test_files_of_the_current_folder_are_not_taken_for_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    assert _runtime(LocalProbe()).status == "ok"


@pytest.mark.parametrize("program", ["/no/such/python", None, "app"])
def test_without_a_python_program_nothing_is_started_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    if program == "app":  # a frozen application: starting it would start it again
        application = tmp_path / program
        application.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        application.chmod(0o755)
        program = str(application)
    monkeypatch.setattr(sys, "executable", program)
    said = f"it is tried with a Python program, and {program!r} is none"
    assert LocalProbe().trial("gpus") == Ran(0, "", said)
    assert not (tmp_path / "started").exists()


def test_a_python_that_does_not_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python3"
    broken.write_text("no program")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert LocalProbe().trial("gpus") == Ran(0, "", f"{broken} does not start")


def test_damaged_metadata_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd-1.0.dist-info").mkdir()
    (tmp_path / "odd-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "onnxruntime" in LocalProbe().distributions()
