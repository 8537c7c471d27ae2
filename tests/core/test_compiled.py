"""`--compile`: when kernels are fused, and what happens where no compiler works."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgegpt.errors import EdgeGPTError
from edgegpt.training import compiled as module
from edgegpt.training.compiled import compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NONE = "No working compiler found"
EXACT = "--max-steps 20 --eval-interval 10 --dropout 0 --precision float32"


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let torch.compile return what it gets; the list holds it, less what only tries it out."""
    seen: list[object] = []

    def keep(function: object) -> object:
        if isinstance(function, nn.Module):
            seen.append(function)
        return function

    monkeypatch.setattr(torch, "compile", keep)
    return seen


def no_note(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [(None, CPU, 0), (None, CUDA, 1), (True, CPU, 1), (False, CUDA, 0)],
)
def test_cuda_fuses_by_default_and_the_cpu_when_asked(
    wanted: bool | None,
    device: torch.device,
    expected: int,
    fused: list[object],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.tensor([1.0, 1.0]))  # without a GPU
    model = nn.Linear(2, 2)
    assert compiled(model, wanted, device, no_note) is model
    assert len(fused) == expected


def test_without_a_compiler_a_run_on_cuda_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_obstacle", lambda device: NONE)
    model, notes = nn.Linear(2, 2), []
    assert compiled(model, None, CUDA, notes.append) is model
    assert notes == [f"not compiled, which would be faster: {NONE}"]


def test_without_a_compiler_asking_for_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    def refuse(function: object) -> object:
        raise RuntimeError(f"\n{NONE}\nand a page about it")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(EdgeGPTError, match=f"--compile does not work here: {NONE}; leave it out"):
        compiled(nn.Linear(2, 2), True, CPU, no_note)


@pytest.mark.long
def test_fused_kernels_learn_what_plain_ones_learn(
    edgegpt: Callable, corpus: Path, tiny_settings: list[str], tmp_path: Path
):
    losses, settings = [], [*tiny_settings, *EXACT.split()]
    for name, option in (("plain", "--no-compile"), ("fused", "--compile")):
        out = tmp_path / name
        outcome = edgegpt("train", "--data", corpus, "--out", out, option, *settings, "--json")
        assert outcome.code == 0, outcome.err
        losses.append(json.loads(outcome.out)["best_validation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
