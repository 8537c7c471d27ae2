"""What quantisation costs: KL divergence, top-1 agreement and perplexity on a held-out text."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT

from .blocks import BlockQuantized

__all__ = ["Quality", "measure", "with_weights"]

ROWS = 128  # positions whose distributions are in memory at once, in float64


@dataclass(frozen=True)
class Quality:
    """A quantised model beside its float32 reference, over `tokens` predicted tokens.

    `kl` is the mean of KL(reference || quantised) per token, in nats; `top1_agreement` the share
    of positions at which both think the same token the likeliest; a perplexity is
    exp(mean -log p(true next token)).
    """

    kl: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float
    tokens: int


def with_weights(model: GPT, weights: Mapping[str, BlockQuantized]) -> GPT:
    """Return a copy of `model` with these weights replaced by what their integers stand for."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in weights.items():
            changed.get_parameter(name).copy_(torch.from_numpy(weight.dequantized()))
    return changed


@torch.no_grad()
def measure(reference: GPT, quantised: GPT, windows: Tensor) -> Quality:
    """Compare two models in eval mode on all positions of `windows` int64 [N, T + 1].

    Both run the plain path in float32; distributions are compared in float64.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InvalidInputError(
            f"quality is measured on token windows [N, T + 1], not {list(windows.shape)}"
        )
    sums = torch.zeros(4, dtype=torch.float64)
    for window in windows:
        given, target = window[None, :-1], window[1:]  # (1, T), (T,)
        pieces = zip(
            reference(given)[0].split(ROWS),
            quantised(given)[0].split(ROWS),
            target.split(ROWS),
            strict=True,
        )
        sums += sum(_compare(*piece) for piece in pieces)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    kl, agreement, loss, reference_loss = (sums / tokens).tolist()
    return Quality(kl, agreement, math.exp(loss), math.exp(reference_loss), tokens)


def _compare(reference: Tensor, quantised: Tensor, target: Tensor) -> Tensor:
    """Return the sums over positions of KL, agreement and both losses, from logits [T, V]."""
    p, q = (logits.double().log_softmax(-1) for logits in (reference, quantised))  # (T, V)
    right = target[:, None]  # (T, 1)
    return torch.stack(
        [
            (p.exp() * (p - q)).sum(),
            (p.argmax(-1) == q.argmax(-1)).double().sum(),
            -q.gather(1, right).sum(),
            -p.gather(1, right).sum(),
        ]
    )
