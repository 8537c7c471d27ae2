"""Find the largest of many numbers without sorting them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW", "largest", "lower_bound", "magnitude"]

FEW = 64  # rows into which numbers are reshaped to find the largest of them


def lower_bound(values: NDArray[np.floating[Any]], count: int) -> float:
    """Return a number that at least `count` of the `values` [N] reach; N >= FEW * `count`.

    It is found in one pass: the k-th largest of the columns' maxima is at most the k-th of all.
    """
    width = len(values) // FEW
    best = values[: width * FEW].reshape(FEW, width).max(axis=0)  # (width,)
    place = max(width - count, 0)
    return float(np.partition(best, place)[place])


def largest(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` largest `values` [N], falling; ties: the first place."""
    if len(values) >= FEW * count:
        places = np.flatnonzero(values >= lower_bound(values, count))
    else:
        places = np.arange(len(values))
    order = np.argsort(-values[places], kind="stable")
    return places[order[:count]]


def magnitude(values: NDArray[np.floating[Any]], best: float) -> float:
    """Return the largest finite absolute value; `best` is the largest value."""
    lowest = float(values.min())
    if lowest == -math.inf:
        lowest = float(values[values > -np.inf].min())
    return max(best, -lowest)
