"""nanoGPT: the file `ckpt.pt` of its train.py, or a state dict of its names alone.

The file has the state dict under "model", and the settings under "model_args". The vocabulary may
be padded, as from 50257 to 50304; the padding stays.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .pickles import PickledTensors
from .source import Source
from .state import axes, numbers

__all__ = ["open_nanogpt"]

FIRST = "transformer.h.0.attn.c_attn.weight"


def open_nanogpt(
    state: dict[str, Tensor], model_args: dict[str, Any], path: Path, n_head: int | None = None
) -> Source:
    """Return the checkpoint in a state dict of nanoGPT.

    Args:
        state: names with tensors.
        model_args: nanoGPT's settings; empty: the file has none.
        path: the file that they are from.
        n_head: heads per layer, which shapes do not tell; needed if the settings lack it.

    Raises:
        CheckpointError: if the number of heads is unknown or contradicted, or a tensor that the
            sizes are read from is missing.
    """
    vocab_size, n_embd = axes(state, "transformer.wte.weight", path)
    block_size, _ = axes(state, "transformer.wpe.weight", path)
    rows, columns = axes(state, FIRST, path)
    if rows != 3 * n_embd and columns == 3 * n_embd:
        raise CheckpointError(
            f"{path}: {FIRST} is transposed, as in a GPT-2 of Hugging Face; import the folder with "
            f"its config.json"
        )
    layers = numbers(state, r"transformer\.h\.(\d+)\.")
    given = model_args.get("n_head")
    if n_head is not None and given is not None and n_head != given:
        raise CheckpointError(f"{path}: the model has {given!r:.80} heads, not {n_head} (--n-head)")
    if n_head is None and given is None:
        raise CheckpointError(
            f"{path} has no model_args, and the shapes do not tell how many heads there are: "
            f"say it by --n-head"
        )
    if model_args.get("n_layer", layers) != layers:
        raise CheckpointError(
            f"{path}: n_layer is {model_args['n_layer']!r:.80}, but the file has tensors of "
            f"{layers} layers"
        )
    settings = {
        "model_type": "nanogpt",
        "vocab_size": vocab_size,
        "block_size": block_size,
        "n_layer": layers,
        "n_head": n_head,
        "n_embd": n_embd,
        "bias": f"{FIRST.removesuffix('weight')}bias" in state,
        **model_args,
    }
    return Source(path.stem, settings, str(path), PickledTensors({path: state}))
