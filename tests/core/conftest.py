"""Run the command line in the test's own process, on the CPU."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from edgegpt.cli import main


@dataclass(frozen=True)
class Outcome:
    """The result of a command: its exit code, its stdout, its stderr."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def one_process_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def edgegpt(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `edgegpt ARGUMENTS...`; an uncaught exception is raised."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A text file of about 2,000 characters, 16 of them distinct, that is easy to learn."""
    path = tmp_path / "corpus.txt"
    path.write_text("the quay was wet, the wind was high\n" * 60, encoding="utf-8")
    return path


@pytest.fixture
def tiny_settings() -> list[str]:
    """Options of `edgegpt train` for a model that takes a step in a few milliseconds."""
    text = (
        "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --warmup-steps 2 "
        "--eval-windows 8 --sample-tokens 4 --log-interval 1"
    )
    return text.split()


@pytest.fixture
def one_core_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a subprocess: no GPU, one thread, no buffering, no files left in /tmp."""
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(tmp_path_factory.mktemp("litter")),
    }
