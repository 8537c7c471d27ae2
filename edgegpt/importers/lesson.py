"""Reads checkpoints of the common "GPT from scratch" lesson: one module per attention head.

Its state dict has, for block i and head j,

    token_embedding_table.weight, position_embedding_table.weight,
    blocks.{i}.sa.heads.{j}.{key,query,value}.weight, blocks.{i}.sa.proj.{weight,bias},
    blocks.{i}.ffd.network.{0,2}.{weight,bias}, blocks.{i}.ln{1,2}.{weight,bias},
    ln_f.{weight,bias}, lm_head.{weight,bias}

and the heads' causal masks as buffers `...tril`. The masks are ignored: their content is fixed.
"""

import pickle
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..checkpoint import check_state
from ..errors import CheckpointError, InvalidInputError
from ..model import GPT, GPTConfig

__all__ = ["import_heads_as_list"]

# Where trainers commonly put the state dict inside a file.
WRAPPERS = ("model_state_dict", "state_dict", "model")
MASK_BUFFER = re.compile(r"blocks\.\d+\.sa\.heads\.\d+\.tril")
LAYER_NORM_EPS = 1e-5  # PyTorch's default, which the lesson uses


def import_heads_as_list(path: Path, attention_scale: Literal["head_dim", "n_embd"]) -> GPT:
    """Read the file at `path` and return the model, in eval mode and float32.

    Args:
        path: a file written by `torch.save`: a state dict, or a dict that holds one.
        attention_scale: the width whose power -1/2 multiplies the scores; the file does not say.

    Raises:
        CheckpointError: if the file is unsafe or damaged, or if a key is missing, unknown, or of
            an unexpected shape. The error names each such key.
    """
    state = _read_state(path)
    config = _infer_config(state, path, attention_scale)
    expected = _expected_shapes(config)
    check_state(state, {name: torch.empty(shape) for name, shape in expected.items()}, path)
    model = GPT(config)
    model.load_state_dict(_renamed(state, config))
    return model.eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no file at {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; import reads one .pt file") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, which could run code, or is not a PyTorch file. Save "
            f"only the state dict: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # the type of torch.load's error depends on the damage
        raise CheckpointError(f"{path} is not a readable PyTorch file: {error}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict (names with tensors)")
    return {
        name: value.float() for name, value in content.items() if not MASK_BUFFER.fullmatch(name)
    }


def _infer_config(
    state: dict[str, Tensor], path: Path, attention_scale: Literal["head_dim", "n_embd"]
) -> GPTConfig:
    """Read the sizes off the shapes; a later check finds missing keys."""
    vocab_size, n_embd = _shape(state, "token_embedding_table.weight", path)
    block_size, _ = _shape(state, "position_embedding_table.weight", path)
    n_ff, _ = _shape(state, "blocks.0.ffd.network.0.weight", path)
    n_head = _count(state, r"blocks\.0\.sa\.heads\.(\d+)\.") or 1
    widths = {"head_dim": n_embd / n_head, "n_embd": n_embd}
    try:
        return GPTConfig(
            vocab_size=vocab_size,
            block_size=block_size,
            n_layer=_count(state, r"blocks\.(\d+)\."),
            n_head=n_head,
            n_embd=n_embd,
            n_ff=n_ff,
            norm_eps=LAYER_NORM_EPS,
            attention_scale=widths[attention_scale] ** -0.5,
            head_bias=True,
        )
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _shape(state: dict[str, Tensor], name: str, path: Path) -> tuple[int, int]:
    if name not in state:
        raise CheckpointError(f"{path} lacks {name}: it is not of the layout that import reads")
    if state[name].dim() != 2:
        raise CheckpointError(f"{path}: {name} has {state[name].dim()} axes, not 2")
    return state[name].shape[0], state[name].shape[1]


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """Return the highest index that `pattern` finds in the keys, plus one."""
    found = [re.match(pattern, name) for name in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Return the keys of the lesson's layout, with their shapes."""
    width, vocabulary = config.n_embd, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding_table.weight": (vocabulary, width),
        "position_embedding_table.weight": (config.block_size, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
        "lm_head.weight": (vocabulary, width),
        "lm_head.bias": (vocabulary,),
    }
    for i in range(config.n_layer):
        for j in range(config.n_head):
            for part in ("key", "query", "value"):
                shapes[f"blocks.{i}.sa.heads.{j}.{part}.weight"] = (config.head_dim, width)
        shapes |= {
            f"blocks.{i}.sa.proj.weight": (width, width),
            f"blocks.{i}.sa.proj.bias": (width,),
            f"blocks.{i}.ffd.network.0.weight": (config.n_ff, width),
            f"blocks.{i}.ffd.network.0.bias": (config.n_ff,),
            f"blocks.{i}.ffd.network.2.weight": (width, config.n_ff),
            f"blocks.{i}.ffd.network.2.bias": (width,),
        }
        for norm in ("ln1", "ln2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
    return shapes


def _renamed(state: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Return the state dict of `GPT`, with each block's heads fused into one qkv weight."""
    result = {
        "token_embedding.weight": state["token_embedding_table.weight"],
        "position_embedding.weight": state["position_embedding_table.weight"],
    }
    parts = {
        "norm_1": "ln1",
        "norm_2": "ln2",
        "attention.proj": "sa.proj",
        "feed_forward.up": "ffd.network.0",
        "feed_forward.down": "ffd.network.2",
    }
    for i in range(config.n_layer):
        heads = [
            state[f"blocks.{i}.sa.heads.{j}.{part}.weight"]
            for part in ("query", "key", "value")
            for j in range(config.n_head)
        ]
        result[f"blocks.{i}.attention.qkv.weight"] = torch.cat(heads)  # (3 * H * D, C)
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                result[f"blocks.{i}.{ours}.{kind}"] = state[f"blocks.{i}.{theirs}.{kind}"]
    for ours, theirs in (("norm_final", "ln_f"), ("head", "lm_head")):
        for kind in ("weight", "bias"):
            result[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    return result
