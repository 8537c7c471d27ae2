"""The trained model of this repository, from export to generation."""

import json
import shutil
import subprocess
from itertools import groupby
from pathlib import Path

import pytest
import torch

import edgegpt
from edgegpt.checkpoint import Checkpoint, load_checkpoint
from edgegpt.cli import main
from edgegpt.export import export_bundle
from edgegpt.runtime.generation.rows import window_start
from edgegpt.runtime.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models" / "shakespeare-char"
PROMPT = "ROMEO:"
LENGTH = 300  # longer than the block: the window slides
WORST_LOSS = 1.6  # nats per character of held_out.txt


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shipped") / "bundle"
    receipt = export_bundle(FOLDER, out)
    assert receipt.passed
    return out


def test_it_has_the_preset_s_size(checkpoint: Checkpoint) -> None:
    assert checkpoint.model.parameter_count() == 10_788_929
    assert (FOLDER / "model.safetensors").stat().st_size < 22_000_000


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and its clone"
)
def test_git_on_windows_does_not_change_its_line_ends(tmp_path: Path) -> None:
    git = ["git", "-c", "core.autocrlf=true", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    name = (FOLDER / "held_out.txt").relative_to(ROOT).as_posix()
    subprocess.run([*git, "checkout-index", f"--prefix={tmp_path}/", name], check=True)
    assert (tmp_path / name).read_bytes() == (FOLDER / "held_out.txt").read_bytes()


def test_greedy_text_from_the_bundle_is_pytorch_s(bundle: Path, checkpoint: Checkpoint) -> None:
    """PyTorch reads the whole text: each window once, from which several tokens follow."""
    with edgegpt.load(bundle) as model:
        result = model.generate(PROMPT, max_new_tokens=LENGTH)
    assert result.first_near_tie is None
    tokenizer = Tokenizer(checkpoint.tokenizer_json or "")
    begin, ids = len(tokenizer.encode(PROMPT)), tokenizer.encode(PROMPT + result.text)
    assert len(ids) == begin + LENGTH
    block = checkpoint.model.config.block_size
    steps = groupby(range(begin, len(ids)), lambda length: window_start(length, block))
    windows = [(start, list(lengths)) for start, lengths in steps]
    assert len(windows) > 1
    for start, lengths in windows:
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([ids[start : lengths[-1]]]))[0]  # (T, V)
        found = logits[lengths[0] - start - 1 :].argmax(-1).tolist()
        assert found == ids[lengths[0] : lengths[-1] + 1]


def test_the_bundle_s_loss_on_held_out_text_is_pytorch_s(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for model in (bundle, FOLDER):
        with pytest.raises(SystemExit) as stop:
            main(["eval", str(model), "--data", str(FOLDER / "held_out.txt"), "--json"])
        assert not stop.value.code
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] < WORST_LOSS


def test_it_writes_words_of_the_play(bundle: Path) -> None:
    with edgegpt.load(bundle) as model:
        # A few hundred characters hold too few words to judge.
        text = model.generate(PROMPT, max_new_tokens=1000, temperature=0.8, seed=1).text
    words = {word.strip(".,;:!?'").lower() for word in text.split()}
    assert len(words & {"the", "and", "i", "to", "you", "my", "that", "not", "is", "of"}) >= 5
