"""The past of far prompts: what a few tokens leave in the cache, and a long past made of it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.runtime.proof.far_past import far_past

from .reader import Reader

__all__ = ["Past", "Recorded", "cut_past", "record_past", "torch_past"]

Past = list[tuple[Tensor, Tensor]]  # keys and values [1, K, P, D] of each layer
Recorded = list[NDArray[np.float16]]  # keys, then values [K, M, D] of each layer

MOST_TOKENS, MOST_VALUES = 32, 2**20  # of a recorded past; 2 MB
SMALLEST, LARGEST = 2.0**-14, 65504.0  # normal numbers of float16


@torch.no_grad()
def record_past(model: Reader, text: list[int]) -> Recorded:
    """Return what the first tokens of `text` leave in the cache, float16 [K, M, D] per cache.

    The numbers are rounded to those that float16 and bfloat16 both hold, so that every precision of
    a cache starts from the same ones.
    """
    config = model.config
    one = 2 * config.n_layer * config.n_kv_head * config.head_dim
    count = min(MOST_TOKENS, config.block_size, len(text), max(2, MOST_VALUES // one))
    ids, nothing = torch.tensor([text[:count]]), torch.zeros(1, dtype=torch.int64)
    _, present = model.forward_cached(ids, nothing, nothing[None], model.empty_cache(1, count))
    return [_rounded(tensor[0]) for layer in present for tensor in layer]


def _rounded(values: Tensor) -> NDArray[np.float16]:
    exact = values.float().bfloat16().float().clamp(-LARGEST, LARGEST)
    exact = torch.where(exact.abs() < SMALLEST, 0.0, exact)
    return exact.numpy().astype(np.float16)


def torch_past(recorded: Recorded, slots: int) -> Past:
    """Return keys and values of `slots` slots for each layer, float32."""
    tensors = [torch.from_numpy(array)[None] for array in far_past(recorded, slots)]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def cut_past(past: Past, slots: int) -> Past:
    """Return the first slots of a past."""
    return [(keys[:, :, :slots], values[:, :, :slots]) for keys, values in past]
