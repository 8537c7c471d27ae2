"""Evaluation: every token but the first is predicted once, with the windows of training."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import TEXT, random_model, small_config, write_checkpoint

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.evaluate import evaluate, evaluate_model
from edgegpt.runtime.text.split import validation_part

V = 7


class Recorder:
    """A model whose logits are a fixed function of the ids it sees; it records its windows."""

    def __init__(self, piece: int = 1000) -> None:
        self.piece, self.shapes = piece, []

    def __call__(self, windows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        self.shapes.append(windows.shape)
        seen = windows.cumsum(axis=1)  # each position depends on all before it in its window
        logits = np.cos(seen[..., None] * np.arange(1, V + 1)).astype(np.float32)
        for start in range(0, windows.shape[1], self.piece):
            yield start, logits[:, start : start + self.piece]


def expected(ids: list[int], context: int) -> float:
    """Predict slowly, token by token, as the module's docstring says."""
    count, losses = len(ids) - 1, []
    for target in range(1, count + 1):
        start = (target - 1) // context * context
        if start + context > count:
            start = max(0, count - context)
        ((_, logits),) = Recorder()(np.array([ids[start:target]]))
        row = logits[0, -1].astype(np.float64)
        losses.append(math.log(np.exp(row).sum()) - row[ids[target]])
    return float(np.mean(losses))


@pytest.mark.parametrize("length", [2, 5, 9, 10, 17, 25, 26, 40])
@pytest.mark.parametrize("piece", [1000, 3])
def test_every_token_but_the_first_counts_once(length: int, piece: int):
    ids = np.random.default_rng(length).integers(0, V, length).tolist()
    model, seen = Recorder(piece), []
    result = evaluate(model, ids, length - 1, 8, 2, lambda _, *numbers: seen.append(numbers))
    assert result.tokens == length - 1
    assert result.loss == pytest.approx(expected(ids, 8), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert seen[-1] == (length - 1, length - 1)
    assert all(rows <= 2 and tokens == min(8, length - 1) for rows, tokens in model.shapes)


def test_bits_per_character_counts_characters_and_not_tokens():
    ids = [1, 2, 3, 4, 5]
    result = evaluate(Recorder(), ids, 16, 8)
    assert result.bits_per_character == pytest.approx(result.loss * 4 / 16 / math.log(2))


@pytest.mark.parametrize("ids", [[], [3]])
def test_a_text_with_nothing_to_predict_is_refused(ids: list[int]):
    with pytest.raises(InvalidInputError, match="nothing to predict"):
        evaluate(Recorder(), ids, 0, 8)


def test_the_validation_part_is_what_training_keeps():
    data = pytest.importorskip("edgegpt.training.data")
    ids = np.arange(1234, dtype=np.int32)
    assert validation_part(ids.tolist()) == data.split(ids, 8)[1].tolist()


def torch_loss(model: torch.nn.Module, ids: list[int], block: int) -> float:
    """Return the cross-entropy from PyTorch alone, for a text that is cut into whole windows."""
    windows = torch.tensor(ids)
    inputs, targets = windows[:-1].view(-1, block), windows[1:].view(-1, block)
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model(small_config())
    return write_checkpoint(tmp_path_factory.mktemp("eval") / "checkpoint", model)


@pytest.fixture(scope="module")
def float_bundle(checkpoint: Path) -> Path:
    from edgegpt.export import ExportSettings, export_bundle

    settings = ExportSettings(lowerings=("ort",))
    export_bundle(checkpoint, checkpoint.parent / "bundle", settings=settings)
    return checkpoint.parent / "bundle"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_a_bundle_its_checkpoint_and_pytorch_agree(
    checkpoint: Path, float_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = TEXT[: 32 * 9 + 1]
    (tmp_path / "text.txt").write_text(text)
    with edgegpt.load(float_bundle) as lm:
        ids = lm.tokenizer.encode(text)
    wanted = torch_loss(random_model(small_config()), ids, 32)
    for model in (float_bundle, checkpoint):
        assert run("eval", model, "--data", tmp_path / "text.txt", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["loss"] == pytest.approx(wanted, abs=1e-5)
        assert found["tokens"] == found["characters"] == 32 * 9


def test_the_quality_gate_measures_the_same_perplexity(checkpoint: Path, tmp_path: Path):
    """The gate's reference is PyTorch in float32 on two of three windows of the held-out text."""
    from edgegpt.export import ExportSettings, export_bundle

    export_bundle(checkpoint, tmp_path / "b", precision="int8", settings=ExportSettings(max_kl=1e9))
    with edgegpt.load(tmp_path / "b") as lm:
        ids = lm.tokenizer.encode(TEXT)
        starts = [32 * index for index in range((len(ids) - 1) // 32) if index % 3 != 1]
        windows = [ids[start : start + 33] for start in starts]
        gate = lm.bundle.manifest.quantization
        assert gate.quality.tokens == 32 * len(windows)
        model = random_model(small_config())
        reference = mean(torch_loss(model, window, 32) for window in windows)
        assert math.log(gate.reference_perplexity) == pytest.approx(reference, abs=1e-5)
        found = mean(evaluate_model(lm, window).loss for window in windows)
        assert found == pytest.approx(math.log(gate.quality.perplexity), rel=0.02)


def test_the_split_and_the_context_are_those_asked_for(
    float_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("--data", tmp_path / "text.txt", "--split", "validation", "--context", 10, "--json")
    assert run("eval", float_bundle, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tokens"], found["context"]) == (len(TEXT) - int(len(TEXT) * 0.9) - 1, 10)
    assert found["split"] == "validation"
    (tmp_path / "text.txt").write_text(f"\ufeff{TEXT}")  # as editors of Windows mark it
    assert run("eval", float_bundle, *options) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == found["loss"]


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (None, "", "no.txt"),
        (b"", "", "empty"),
        (b"a", "", "nothing to predict"),
        (b"\xff\xfe", "", "UTF-8"),
        ("snow \u2603 man".encode(), "", "U+2603"),
        (b"a good word", "--context 33", "context is 33"),
        (b"a good word", "--context 0", "context is 0"),
    ],
)
@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
def test_bad_input_is_refused_in_one_sentence(
    kind: str,
    content: bytes | None,
    options: str,
    named: str,
    float_bundle: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    path = tmp_path / ("no.txt" if content is None else "text.txt")
    if content is not None:
        path.write_bytes(content)
    model = float_bundle if kind == "bundle" else checkpoint
    assert run("eval", model, "--data", path, *options.split()) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert named in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_folder_that_is_neither_bundle_nor_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.txt").write_text(TEXT)
    assert run("eval", tmp_path / "nowhere", "--data", tmp_path / "text.txt") == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--backend", "cuda"], ["--tf32"]])
def test_a_checkpoint_does_not_pretend_to_run_on_another_backend(
    options: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.txt").write_text(TEXT)
    assert run("eval", checkpoint, "--data", tmp_path / "text.txt", *options) == 2
    assert "a checkpoint runs in PyTorch" in capsys.readouterr().err
