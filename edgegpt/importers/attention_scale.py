"""By what a model's scores of attention were multiplied, where its file does not say: measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from edgegpt.runtime.text.tokenizer import Tokenizer

from ..errors import CheckpointError
from ..model import GPT, GPTConfig
from ..model_weights import load_model
from ..training.data import windows
from ..user_files import read_text
from .run import Import

__all__ = ["with_measured_scale"]

CHARACTERS, WINDOWS, ROWS = 2**17, 64, 16  # of the text, in all, and at once


def with_measured_scale(found: Import, tokenizer_json: str | None, data: Path) -> Import:
    """Return a model of the lesson with that scale with which it predicts a text better.

    The two are the width of a head and that of the stream, each to the power -1/2.

    Raises:
        CheckpointError: if the model is of another family, or the text cannot be read.
        InvalidInputError: if the text has a character that the model does not know.
    """
    where, config = found.source.where, found.config
    if found.family.model_type != "lesson" or not isinstance(config, GPTConfig):
        raise CheckpointError(f"{where}: --data is for the lesson, whose file lacks a setting")
    if tokenizer_json is None:
        raise CheckpointError(
            f"{where} has no stoi or itos, so that no text can be read with it: say its scale by "
            f"--attention-scale"
        )
    text = read_text(data)
    if text is None:
        raise CheckpointError(f"no file at {data}")
    ids = Tokenizer(tokenizer_json, config.vocab_size).encode(text[:CHARACTERS])
    if len(ids) < 2:
        raise CheckpointError(f"{data} is too short to measure on")
    weights = {name: found.value(name) for name in found.weights}
    scales = {"head_dim": config.head_dim**-0.5, "n_embd": config.n_embd**-0.5}
    losses = {
        name: _loss(load_model(replace(config, attention_scale=scale), weights), ids)
        for name, scale in scales.items()
    }
    best, other = sorted(losses, key=losses.__getitem__)
    note = (
        f"{where}: the scores of attention are multiplied by {best} to the power -1/2, as the loss "
        f"on {data.name} is {losses[best]:.3f} with it, and {losses[other]:.3f} with {other}"
    )
    config = replace(config, attention_scale=scales[best])
    return replace(found, config=config, notes=[*found.notes, note])


@torch.no_grad()
def _loss(model: GPT, ids: list[int]) -> float:
    """Return the mean cross-entropy on windows of a text, in nats."""
    block = min(model.config.block_size, len(ids) - 1)
    total = count = 0.0
    for inputs, targets in windows(np.array(ids, dtype=np.int32), block, ROWS, WINDOWS):
        logits = model(inputs).flatten(0, 1)  # (B * T, V)
        total += float(F.cross_entropy(logits, targets.flatten(), reduction="sum"))
        count += targets.numel()
    return total / count
