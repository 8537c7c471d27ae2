"""The common "GPT from scratch" lesson: one module per attention head.

Its state dict has, for block i and head j,

    token_embedding_table.weight, position_embedding_table.weight,
    blocks.{i}.sa.heads.{j}.{key,query,value}.weight, blocks.{i}.sa.proj.{weight,bias},
    blocks.{i}.ffd.network.{0,2}.{weight,bias}, blocks.{i}.ln{1,2}.{weight,bias},
    ln_f.{weight,bias}, lm_head.{weight,bias}

and the heads' causal masks as buffers `...tril`. The masks are ignored: their content is fixed.
"""

from pathlib import Path
from typing import Literal

from torch import Tensor

from .pickles import PickledTensors
from .source import Source
from .state import axes, numbers

__all__ = ["AttentionScale", "open_lesson"]

AttentionScale = Literal["head_dim", "n_embd"]


def open_lesson(state: dict[str, Tensor], path: Path, attention_scale: AttentionScale) -> Source:
    """Return the checkpoint in a state dict of the lesson.

    Args:
        state: names with tensors.
        path: the file that they are from.
        attention_scale: the width whose power -1/2 multiplies the scores; the file does not say.

    Raises:
        CheckpointError: for a missing key that the sizes are read from.
    """
    vocab_size, n_embd = axes(state, "token_embedding_table.weight", path)
    block_size, _ = axes(state, "position_embedding_table.weight", path)
    n_ff, _ = axes(state, "blocks.0.ffd.network.0.weight", path)
    n_head = numbers(state, r"blocks\.0\.sa\.heads\.(\d+)\.") or 1
    widths = {"head_dim": n_embd / n_head, "n_embd": n_embd}
    settings = {
        "model_type": "lesson",
        "vocab_size": vocab_size,
        "n_positions": block_size,
        "n_layer": numbers(state, r"blocks\.(\d+)\."),
        "n_head": n_head,
        "n_embd": n_embd,
        "n_inner": n_ff,
        "attention_scale": widths[attention_scale] ** -0.5,
    }
    return Source(path.stem, settings, str(path), PickledTensors({path: state}))
