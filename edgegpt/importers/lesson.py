"""The common "GPT from scratch" lesson: one module per attention head.

Its state dict has, for block i and head j,

    token_embedding_table.weight, position_embedding_table.weight,
    blocks.{i}.sa.heads.{j}.{key,query,value}.weight, blocks.{i}.sa.proj.{weight,bias},
    blocks.{i}.ffwd.net.{0,2}.{weight,bias}, blocks.{i}.ln{1,2}.{weight,bias},
    ln_f.{weight,bias}, lm_head.{weight,bias}

where ffwd may be ffd, and net network,
and the heads' causal masks as buffers `...tril`. The masks are ignored: their content is fixed.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from torch import Tensor

from .pickles import PickledTensors
from .source import Source
from .state import axes, numbers

__all__ = ["AttentionScale", "feed_forward", "open_lesson"]

AttentionScale = Literal["head_dim", "n_embd"]
# Karpathy's gpt.py scales by the width of a head; the notebook of the same lesson by n_embd.
UNKNOWN_SCALE = (
    "{} does not say by what the scores of attention are multiplied: it is taken as the width of a "
    "head to the power -1/2, and with the wrong one the model is worse. Many take n_embd "
    "(--attention-scale n_embd); with a text of its kind (--data FILE) import measures both"
)


def feed_forward(names: Iterable[str]) -> str:
    """Return what a block's two layers are in, by the names of a model's tensors."""
    pattern = re.compile(r"blocks\.\d+\.(ffw?d\.net(?:work)?)\.0\.weight")
    found = map(pattern.fullmatch, names)
    return next((match[1] for match in found if match), "ffwd.net")


def open_lesson(
    state: dict[str, Tensor], path: Path, attention_scale: AttentionScale | None
) -> Source:
    """Return the checkpoint in a state dict of the lesson.

    Args:
        state: names with tensors.
        path: the file that they are from.
        attention_scale: the width whose power -1/2 multiplies the scores; the file does not say.
            None: that of a head, and a note says so.

    Raises:
        CheckpointError: for a missing key that the sizes are read from.
    """
    vocab_size, n_embd = axes(state, "token_embedding_table.weight", path)
    block_size, _ = axes(state, "position_embedding_table.weight", path)
    n_ff, _ = axes(state, f"blocks.0.{feed_forward(state)}.0.weight", path)
    n_head = numbers(state, r"blocks\.0\.sa\.heads\.(\d+)\.") or 1
    widths = {"head_dim": n_embd / n_head, "n_embd": n_embd}
    notes = (UNKNOWN_SCALE.format(path),) if attention_scale is None and n_head > 1 else ()
    settings = {
        "model_type": "lesson",
        "vocab_size": vocab_size,
        "n_positions": block_size,
        "n_layer": numbers(state, r"blocks\.(\d+)\."),
        "n_head": n_head,
        "n_embd": n_embd,
        "n_inner": n_ff,
        "attention_scale": widths[attention_scale or "head_dim"] ** -0.5,
    }
    tensors = PickledTensors({path: state})
    return Source(path.stem, settings, str(path), tensors, notes=notes)
