"""The texts of an export: the checkpoint's, Python's help topics, or what the model writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import TEXT, random_model, small_config, write_checkpoint
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from edgegpt.checkpoint import Checkpoint, load_checkpoint
from edgegpt.errors import CheckpointError
from edgegpt.export import texts
from edgegpt.export.quantization import own_windows
from edgegpt.export.recipes import parts, quantised

BLOCK = 64


def byte_tokenizer() -> str:
    """Return a tokenizer that writes any text, one id for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE({char: place for place, char in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library.to_str()


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """A checkpoint with a tokenizer for any text, and no text."""
    model = random_model(small_config(vocab_size=256, block_size=BLOCK))
    folder = write_checkpoint(tmp_path / "ckpt", model, text=None)
    (folder / "tokenizer.json").write_text(byte_tokenizer())
    return load_checkpoint(folder)


def written(source: Checkpoint, ids: list[int]) -> str:
    tokenizer = texts.tokenizer_of(source)
    assert tokenizer is not None
    return tokenizer.decode(ids)


def make_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LARGE", 1000)
    monkeypatch.setattr(texts, "LARGE_WINDOW", 16)


def test_a_checkpoint_without_a_text_gets_the_topics_and_calibrates_on_others(
    source: Checkpoint,
) -> None:
    held_out = written(source, texts.held_out_ids(source))
    calibration = written(source, texts.calibration_ids(source))
    assert held_out.startswith('The "assert" statement')
    assert len(held_out) == 2**16
    assert len(calibration) > 2**17
    assert held_out[-200:] not in calibration
    assert calibration[:200] not in held_out


def test_a_text_of_the_checkpoint_comes_first(source: Checkpoint) -> None:
    own = replace(source, held_out=TEXT)
    assert written(own, texts.held_out_ids(own)) == TEXT
    assert texts.calibration_ids(own) == []


def test_a_tokenizer_that_cannot_write_the_topics_gets_no_text(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", random_model(small_config()))
    (folder / "held_out.txt").unlink()
    source = load_checkpoint(folder)
    assert texts.held_out_ids(source) == texts.calibration_ids(source) == []
    assert texts.held_out_ids(replace(source, tokenizer_json=None)) == []


def test_a_text_that_its_own_tokenizer_cannot_write_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", random_model(small_config()))
    source = replace(load_checkpoint(folder), held_out="Zürich")
    with pytest.raises(CheckpointError, match=r"held_out\.txt does not fit"):
        texts.held_out_ids(source)


def test_a_large_model_is_measured_on_few_short_windows(
    source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = parts.held_out_windows(source)
    assert windows.shape == ((len(texts.held_out_ids(source)) - 1) // BLOCK, BLOCK + 1)
    make_large(monkeypatch)
    assert parts.held_out_windows(source).shape == (3072 // 16, 17)
    assert parts.held_out_windows(replace(source, tokenizer_json=None)).shape == (48, 64)


def test_every_third_window_is_for_choosing_and_never_for_telling() -> None:
    windows = torch.arange(7)[:, None]
    told, chosen = quantised._parted(windows)
    assert told.flatten().tolist() == [0, 2, 3, 5, 6]
    assert chosen.flatten().tolist() == [1, 4]
    assert [part.tolist() for part in quantised._parted(windows[:1])] == [[[0]], [[0]]]
    assert all(len(part) for part in quantised._parted(windows[:2]))


def test_gptq_calibrates_on_the_topics_if_there_is_no_text(
    source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = texts.calibration_ids(source)
    windows = quantised._calibration(source, None)
    assert windows.shape == (32768 // BLOCK, BLOCK)
    assert windows[1].tolist() == ids[BLOCK : 2 * BLOCK]
    long = replace(source, config=replace(source.config, block_size=1024))
    assert quantised._calibration(long, None).shape == (32768 // 512, 512)
    given = quantised._calibration(source, "x" * 3 * BLOCK)
    assert given.shape == (3, BLOCK)
    own = quantised._calibration(replace(source, held_out=TEXT), None)
    assert own.tolist() == own_windows(source.model).tolist()
    make_large(monkeypatch)
    assert quantised._calibration(source, None).shape == (4096 // 16, 16)
