"""The loss of quantisation: KL divergence, top-1 agreement and perplexity on a held-out text."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.manifest import Quality
from edgegpt.runtime.proof.quality import QualitySum

from .blocks import BlockQuantized

__all__ = ["measure", "with_weights"]

ROWS = 256  # positions whose distributions are in memory at once, in float64


def with_weights(model: GPT, weights: Mapping[str, BlockQuantized]) -> GPT:
    """Return a copy of `model` with these weights replaced by their dequantised values."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in weights.items():
            changed.get_parameter(name).copy_(torch.from_numpy(weight.dequantized()))
    return changed


@torch.no_grad()
def measure(reference: GPT, quantised: GPT, windows: Tensor) -> Quality:
    """Compare two models in eval mode on all positions of `windows` int64 [N, T + 1].

    Both run the plain path in float32.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InvalidInputError(
            f"quality is measured on token windows [N, T + 1], not {list(windows.shape)}"
        )
    total = QualitySum()
    for window in windows:
        given, target = window[None, :-1], window[1:]  # (1, T), (T,)
        logits = (model(given)[0].split(ROWS) for model in (quantised, reference))
        for found, wanted, ids in zip(*logits, target.split(ROWS), strict=True):
            total.add(found.numpy(), wanted.numpy(), ids.numpy())
    return total.result()
