"""The log-probability that logits give to tokens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_loss", "log_sum_exp"]

Logits = NDArray[np.float32]


def log_loss(logits: Logits, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return -log p(target), in nats, of each row of logits [N, V] and its target [N]."""
    right = np.take_along_axis(logits, targets[:, None], axis=-1)  # (N, 1)
    loss: NDArray[np.float64] = (log_sum_exp(logits) - right)[:, 0]
    return loss


def log_sum_exp(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return log(sum(exp(values))) over the last axis, which stays with size 1.

    Exponentials are computed in the precision of `values`, and added up in float64.
    """
    largest = values.max(axis=-1, keepdims=True)
    total = np.exp(values - largest).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: NDArray[np.float64] = largest + np.log(total)
    return result
