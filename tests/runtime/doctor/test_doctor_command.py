"""`edgegpt doctor` through the command line, on this machine and on recorded ones."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from recorded_machine import RecordedMachine

from edgegpt.cli import main
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.doctor import probe
from edgegpt.runtime.doctor.needs import BACKENDS


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main(["doctor", *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return invoke


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Return a function that replaces this machine by a recorded one."""

    def put(name: str) -> None:
        monkeypatch.setattr(probe, "LocalProbe", lambda: RecordedMachine(name))

    return put


def test_a_frozen_application_is_sent_to_a_python(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    outcome = run()
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: doctor tries each engine with a Python program")
    assert "`python -m edgegpt doctor`" in outcome.err


def test_this_machine_can_run_on_its_cpu(run) -> None:
    outcome = run()
    assert outcome.code == 0
    assert "ONNX Runtime" in outcome.out
    assert "loads CPUExecutionProvider" in outcome.out
    assert "auto would use" in outcome.out


def test_json_tells_all_of_this_machine(run) -> None:
    outcome = run("--json", "--backend", "cpu")
    found = json.loads(outcome.out)
    assert (outcome.code, found["works"], found["backend"]) == (0, True, "cpu")
    assert set(found["backends"]) == set(BACKENDS)
    assert found["machine"]["onnxruntime"]["providers"][0]["works"] is True
    assert found["bundle"] is None


def test_a_bundle_on_this_machine(run, small_bundle: Path) -> None:
    outcome = run(small_bundle, "--json")
    found = json.loads(outcome.out)["bundle"]
    assert outcome.code == 0
    assert found["id"] == Bundle.open(small_bundle).manifest.id
    cpu = next(fit for fit in found["backends"] if fit["backend"] == "cpu")
    assert (cpu["lowering"], cpu["largest_context"], cpu["obstacle"]) == ("ort", 32, "")


@pytest.mark.parametrize("damage", ["nowhere", "empty", "file", "cut", "manifest"])
def test_what_is_no_whole_bundle_ends_in_one_sentence(
    run, small_bundle: Path, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    for name in ("cut", "manifest"):
        shutil.copytree(small_bundle, tmp_path / name)
    (tmp_path / "cut" / "weights.safetensors").write_bytes(b"")
    (tmp_path / "manifest" / "edgegpt.json").write_text('{"format_version": 2}')
    outcome = run(tmp_path / damage)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


def test_an_unknown_backend_is_wrong_usage(run) -> None:
    outcome = run("--backend", "abacus")
    assert outcome.code == 2
    assert "'abacus' is not one of" in outcome.err


@pytest.mark.parametrize(
    ("machine", "backend", "code"),
    [
        ("no-gpu", "auto", 0),
        ("no-gpu", "cpu", 0),
        ("no-gpu", "cuda", 1),
        ("both-wheels", "auto", 1),
        ("both-wheels", "cpu", 1),
        ("windows-rtx", "tensorrt-rtx", 0),
        ("windows-rtx", "tensorrt", 1),
        ("jetson-thor-jetpack-7.2", "cuda", 0),
        ("jetson-thor-jetpack-7.2", "tensorrt", 0),
        ("jetson-thor-jetpack-7.2", "tensorrt-rtx", 1),
    ],
)
def test_the_exit_code_says_whether_the_backend_would_work(
    run, on, machine: str, backend: str, code: int
) -> None:
    on(machine)
    outcome = run("--backend", backend)
    assert outcome.code == code
    assert (f"{backend} would not work" in outcome.out) == (code == 1 and backend != "auto")
    assert json.loads(run("--backend", backend, "--json").out)["works"] is (code == 0)


def test_a_bundle_that_the_machine_cannot_run_is_exit_code_1(
    run, on, altered_bundle, small_bundle: Path
) -> None:
    on("jetson-orin-jetpack-6.2")
    assert run(small_bundle).code == 0
    graphs = Bundle.open(small_bundle).manifest.graphs
    outcome = run(altered_bundle(graphs=[graph for graph in graphs if graph.lowering != "legacy"]))
    assert outcome.code == 1
    assert "has only ort, standard: export it again" in " ".join(outcome.out.split())


def test_commands_stand_on_lines_of_their_own_to_be_copied(
    run, on, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    on("both-wheels")
    lines = [line.strip() for line in run().out.splitlines()]
    assert 'pip install "edgegpt-toolkit[cuda]"' in lines
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in lines
    on("cuda-12-desktop")
    lines = [line.strip() for line in run().out.splitlines()]
    assert 'pip install "onnxruntime-gpu[cuda,cudnn]>=1.25,<1.27"' in lines


def test_a_bundle_on_a_recorded_machine_shows_what_auto_takes(run, on, small_bundle: Path) -> None:
    on("jetson-thor-jetpack-7.2")
    outcome = run(small_bundle)
    assert outcome.code == 0
    assert "auto would use cuda: it runs at once, and tensorrt takes over" in outcome.out
    assert "largest context" in outcome.out
