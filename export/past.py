"""The random past of far prompts, as PyTorch's plain path takes it."""

import torch
from torch import Tensor

from edgegpt.model import GPTConfig
from edgegpt.runtime.proof.random_past import random_past

__all__ = ["Past", "cut_past", "torch_past"]

Past = list[tuple[Tensor, Tensor]]  # keys and values [1, K, P, D] of each layer


def torch_past(config: GPTConfig, slots: int) -> Past:
    """Return random keys and values of `slots` slots for each layer, float32."""
    shape = (config.n_kv_head, slots, config.head_dim)
    arrays = random_past(2 * config.n_layer, *shape)
    tensors = [torch.from_numpy(array)[None] for array in arrays]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def cut_past(past: Past, slots: int) -> Past:
    """Return the first slots of a past."""
    return [(keys[:, :, :slots], values[:, :, :slots]) for keys, values in past]
