"""Rank weights by what quantising them costs, and choose the few to leave in float32."""

import math
from collections.abc import Mapping

from torch import Tensor

from ..layered import LayeredModel
from .blocks import BlockQuantized
from .quality import Yardstick, compared, with_weights

__all__ = ["keep_enough", "layer_costs"]

FLOAT_BYTES = 4
REFERENCE = ""  # the name of the stream in which nothing is quantised


def layer_costs(
    reference: LayeredModel, weights: Mapping[str, BlockQuantized], windows: Tensor
) -> dict[str, float]:
    """Return, for each weight, the KL if only that weight is quantised, worst first.

    Up to the layer that a weight belongs to, the model is the reference. From there, each weight
    has a stream of its own through `windows` int64 [N, T + 1]. A few hundred tokens are enough to
    rank, and all streams are in memory at once.
    """
    changed = {name: with_weights(reference, {name: weight}) for name, weight in weights.items()}
    tables = weights.keys() & reference.model.tied_names().values()
    ids = windows[:, :-1]
    streams = {REFERENCE: reference.embedded(ids)}
    streams |= {name: changed[name].embedded(ids) for name in tables}
    for index in range(reference.config.n_layer):
        begun = {
            name: changed[name].after_block(index, streams[REFERENCE])[0]
            for name in weights
            if name.startswith(f"blocks.{index}.")
        }
        streams = dict(zip(streams, reference.after_block(index, *streams.values()), strict=True))
        streams |= begun
    wanted = list(reference.logits(streams[REFERENCE]))
    costs = {}
    for name in weights:
        last = reference if name.startswith("blocks.") else changed[name]
        logits = last.logits(streams.get(name, streams[REFERENCE]))
        costs[name] = compared(windows, logits, wanted).kl
    return dict(sorted(costs.items(), key=lambda item: item[1], reverse=True))


def keep_enough(
    yardstick: Yardstick,
    weights: Mapping[str, BlockQuantized],
    costs: Mapping[str, float],
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
        return yardstick.measure(with_weights(yardstick.reference, left)).kl <= budget

    fewest, enough = 0, len(ranking)  # everything in float32 has a KL of 0
    while fewest < enough:
        middle = (fewest + enough) // 2
        if passes(middle):
            enough = middle
        else:
            fewest = middle + 1
    return frozenset(ranking[:enough])
