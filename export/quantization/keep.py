"""Rank weights by what quantising them costs, and choose the few to leave in float32."""

import math
from collections.abc import Mapping

from torch import Tensor

from edgegpt.model import GPT

from .blocks import BlockQuantized
from .quality import measure, with_weights

__all__ = ["keep_enough", "layer_costs"]

FLOAT_BYTES = 4


def layer_costs(
    reference: GPT, weights: Mapping[str, BlockQuantized], windows: Tensor
) -> dict[str, float]:
    """Return, for each weight, the KL if only that weight is quantised, worst first.

    Each weight takes one pass over `windows` int64 [N, T + 1]; a few windows are enough to rank.
    """
    costs = {
        name: measure(reference, with_weights(reference, {name: weight}), windows).kl
        for name, weight in weights.items()
    }
    return dict(sorted(costs.items(), key=lambda item: item[1], reverse=True))


def keep_enough(
    reference: GPT,
    weights: Mapping[str, BlockQuantized],
    costs: Mapping[str, float],
    windows: Tensor,
    budget: float,
) -> frozenset[str]:
    """Return names to leave in float32, so that all others quantised stay within the KL budget.

    Weights are ranked by `costs` (from `layer_costs`) divided by the bytes that keeping the weight
    adds. Bisection finds the shortest head of the ranking that passes, because KL falls as more is
    kept. Each tried set is measured, not predicted, and so is the returned one. The other weights
    keep their integers, so GPTQ need not run again.
    """

    def gain(name: str) -> float:
        weight = weights[name]
        return costs[name] / (math.prod(weight.shape) * FLOAT_BYTES - weight.size)

    ranking = sorted(weights, key=gain, reverse=True)

    def passes(kept: int) -> bool:
        left = {name: weights[name] for name in ranking[kept:]}
        return measure(reference, with_weights(reference, left), windows).kl <= budget

    fewest, enough = 0, len(ranking)  # everything in float32 has a KL of 0
    while fewest < enough:
        middle = (fewest + enough) // 2
        if passes(middle):
            enough = middle
        else:
            fewest = middle + 1
    return frozenset(ranking[:enough])
