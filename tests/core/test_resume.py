"""`edgegpt train --resume` and Ctrl-C from the command line: what is kept, what is refused."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Forked

from edgegpt.training.lock import only_run
from edgegpt.training.stop import StopRequest


@pytest.fixture
def train(edgegpt: Callable, corpus: Path, tiny_settings: list[str], tmp_path: Path) -> Callable:
    """Return a function that runs `edgegpt train` on the corpus with tiny settings, two steps."""

    def run(out: Path | None = None, options: str = ""):
        out = out or tmp_path / "out"
        return edgegpt(
            *("train", "--data", corpus, "--out", out, *tiny_settings),
            *("--max-steps", 2, *options.split()),
        )

    return run


@pytest.fixture
def resume(edgegpt: Callable, tmp_path: Path) -> Callable:
    def run(options: str = "", out: Path | None = None):
        return edgegpt("train", "--resume", "--out", out or tmp_path / "out", *options.split())

    return run


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("there", [None, "file"])
def test_a_run_that_is_not_there_cannot_be_resumed(
    resume: Callable, tmp_path: Path, there: str | None
):
    if there:
        (tmp_path / "out").write_text("no folder")
    outcome = resume()
    assert outcome.code == 1
    assert f"nothing to resume: {tmp_path / 'out' / 'train' / 'settings.json'}" in outcome.err


def test_a_run_without_its_state_cannot_be_resumed(
    train: Callable, resume: Callable, tmp_path: Path
):
    train(None, "--stop-at 1")
    (tmp_path / "out" / "train" / "state.pt").unlink()
    outcome = resume()
    assert outcome.code == 1
    assert "nothing to resume" in outcome.err
    assert "state.pt is missing" in outcome.err


@pytest.mark.parametrize("file", ["state.pt", "settings.json"])
def test_a_damaged_run_is_refused_by_file(
    train: Callable, resume: Callable, tmp_path: Path, file: str
):
    train(None, "--stop-at 1")
    path = tmp_path / "out" / "train" / file
    path.write_bytes(path.read_bytes()[:-40])
    outcome = resume()
    assert outcome.code == 1
    assert (
        f"{file} is {'not readable JSON' if file == 'settings.json' else 'damaged'}" in outcome.err
    )


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 3}', '{"step": "1"}', "[" * 100_000])
def test_a_log_that_is_damaged_is_refused(
    train: Callable, resume: Callable, tmp_path: Path, line: str
):
    train(None, "--stop-at 1")
    (tmp_path / "out" / "metrics.jsonl").write_text(line + "\n")
    outcome = resume()
    assert outcome.code == 1
    assert f"error: a line of {tmp_path / 'out' / 'metrics.jsonl'} " in outcome.err


class RunsCode:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_a_state_that_would_run_code_is_refused(train: Callable, resume: Callable, tmp_path: Path):
    train(None, "--stop-at 1")
    torch.save({"model": RunsCode(tmp_path / "mark")}, tmp_path / "out" / "train" / "state.pt")
    outcome = resume()
    assert outcome.code == 1
    assert "state.pt is damaged" in outcome.err
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("text", ["high the wind was\n", "Other Characters: ÄÖÜ\n"])
def test_a_resumed_run_keeps_its_corpus(
    train: Callable, resume: Callable, corpus: Path, tmp_path: Path, text: str
):
    train(None, "--stop-at 1")
    before = contents(tmp_path / "out")
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text() + text, encoding="utf-8")
    outcome = resume(f"--data {other}")
    assert outcome.code == 1
    assert "keeps its corpus" in outcome.err
    assert "(corpus.txt, sha256" in outcome.err
    assert contents(tmp_path / "out") == before


def test_a_resumed_run_keeps_its_model(train: Callable, resume: Callable, tmp_path: Path):
    train(None, "--stop-at 1")
    before = contents(tmp_path / "out")
    outcome = resume("--n-layer 2 --dropout 0.5")
    assert outcome.code == 1
    assert "keeps its model; --n-layer 2, --dropout 0.5 would change it" in outcome.err
    assert contents(tmp_path / "out") == before


def test_a_moved_copy_of_the_corpus_can_go_on(
    train: Callable, resume: Callable, corpus: Path, tmp_path: Path
):
    train(None, "--stop-at 1")
    corpus.rename(tmp_path / "moved.txt")
    assert "no corpus at" in resume().err
    assert resume(f"--data {tmp_path / 'moved.txt'}").code == 0


def test_a_resumed_run_takes_new_training_settings(
    train: Callable, resume: Callable, tmp_path: Path
):
    train()
    assert resume("--max-steps 4 --save-dtype float16").code == 0
    assert torch.load(tmp_path / "out" / "train" / "state.pt", weights_only=True)["step"] == 4


def test_stopping_where_the_run_has_passed_already_is_no_interruption(
    train: Callable, resume: Callable
):
    train(None, "--max-steps 5 --stop-at 3")
    assert resume("--stop-at 2").code != 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_a_run_to_resume_and_exit_code_130(
    one_core_environment: dict,
    corpus: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    resume: Callable,
    number: signal.Signals,
):
    out = tmp_path / "out"
    options = [*tiny_settings, "--max-steps", "1000000", "--eval-interval", "1000000"]
    arguments = ["train", "--data", corpus, "--out", out, *options]
    process = Forked(tmp_path / "printed", one_core_environment, *arguments)
    process.wait_for_line(out / "metrics.jsonl")
    process.send_signal(number)
    ended = process.end()
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert "stopping after this step, then saving" in ended.err
    step = torch.load(out / "train" / "state.pt", weights_only=True)["step"]
    assert f"paused at step {step}; go on with: --resume" in ended.out
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == step  # every step is logged; none was interrupted
    assert resume(f"--stop-at {step + 2}").code == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 3))


def test_a_run_that_ended_before_its_first_save_is_begun_anew(
    train: Callable, resume: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgegpt.training.trainer.Trainer.run", killed)
        assert train().code == 130
    assert (tmp_path / "out" / "config.json").exists()
    assert "nothing to resume" in resume().err
    assert train().code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_folder_with_something_of_the_users_is_not_taken_for_such_a_run(
    train: Callable, tmp_path: Path
):
    assert train(None, "--stop-at 1").code == 0
    (tmp_path / "out" / "train" / "state.pt").unlink()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    outcome = train()
    assert outcome.code == 1
    assert (tmp_path / "out" / "thesis.txt").exists()


@pytest.mark.parametrize("second", ["replaces", "resumes"])
def test_two_runs_do_not_share_a_folder(
    train: Callable, resume: Callable, tmp_path: Path, second: str
):
    train(None, "--max-steps 4 --stop-at 2")
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with only_run(out):
        outcome = resume() if second == "resumes" else train(None, "--force")
    assert outcome.code == 1
    assert f"another run is writing to {out}" in outcome.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert resume().code == 0


def test_weights_that_are_no_numbers_do_not_replace_the_good_ones(
    train: Callable, resume: Callable, tmp_path: Path
):
    train(None, "--max-steps 50 --stop-at 2")
    state = (tmp_path / "out" / "train" / "state.pt").read_bytes()
    options = "--learning-rate 1e30 --log-interval 50"
    outcome = resume(f"{options} --stop-at 5")
    assert outcome.code == 1
    assert "go on from the last save with --resume" in outcome.err
    assert (tmp_path / "out" / "train" / "state.pt").read_bytes() == state
    for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON
    assert resume("--stop-at 3 --learning-rate 1e-3 --log-interval 1").code == 0


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest(print) as stop:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not stop.requested
