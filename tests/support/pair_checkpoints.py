"""Checkpoint folders of small encoder-decoders, with tokenizers and held-out pairs."""

from pathlib import Path

import torch

from edgegpt.checkpoint import PAIRS_NAME, save_config, save_weights
from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.bundle import SOURCE_TOKENIZER_NAME, TOKENIZER_NAME
from edgegpt.runtime.bundle.usage import SourceUsage, Usage
from edgegpt.training.subword_tokenizer import END, PAD, START, build_subword_tokenizer

__all__ = ["PAIRS", "USAGE", "write_pair_checkpoint"]

WORDS = "pack my box with five dozen jugs of the vexed zebra fan".split()  # noqa: SIM905
PAIRS = [
    (" ".join(WORDS[i % 7 : i % 7 + 1 + i % 5]), " ".join(WORDS[i % 9 : i % 9 + 1 + i % 3]))
    for i in range(48)
]
USAGE = Usage((START,), (END,), PAD, source=SourceUsage(suffix_ids=(END,)))


def write_pair_checkpoint(
    folder: Path, model: Seq2Seq, *, pairs: bool = True, own_sources: bool = False
) -> Path:
    """Write a checkpoint; `own_sources`: sources have a tokenizer of their own."""
    folder.mkdir()
    save_config(folder, model.config, USAGE)
    save_weights(folder, model, torch.float32)
    tokenizer = build_subword_tokenizer([text for pair in PAIRS for text in pair], 40)
    (folder / TOKENIZER_NAME).write_text(tokenizer.to_str())
    if own_sources:
        other = build_subword_tokenizer([source for source, _ in PAIRS], 34)
        (folder / SOURCE_TOKENIZER_NAME).write_text(other.to_str())
    if pairs:
        (folder / PAIRS_NAME).write_text("".join("\t".join(pair) + "\n" for pair in PAIRS))
    return folder
