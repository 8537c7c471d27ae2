"""The best logits of a row, selected on the device so that not all logits have to be copied."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates"]


@dataclass(frozen=True)
class Candidates:
    """The K best of a row of V logits, and the facts that sampling needs about the others.

    Attributes:
        ids: int64 [K]. No other id has a larger logit than the smallest of these.
        logits: float32 [K], the logits of `ids`, in any order.
        lowest: the smallest of all V logits.
        finite: whether all V logits are finite.
        vocab_size: V.
        fetch: returns all logits, float32 [V]; valid until the engine's next step.
    """

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    lowest: float
    finite: bool
    vocab_size: int
    fetch: Callable[[], NDArray[np.float32]]
