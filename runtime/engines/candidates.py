"""The best logits of a row, picked out where the logits lie, so that not all of them are copied."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates"]


@dataclass(frozen=True)
class Candidates:
    """The best K of a row of V logits, and what must be known of the others.

    Attributes:
        ids: int64 [K]. No other id has a larger logit than the smallest of these.
        logits: float32 [K], theirs, in any order.
        lowest: the smallest of all V logits.
        finite: whether all V logits are finite.
        vocab_size: V.
        fetch: returns all logits, float32 [V]; only until the engine's next step.
    """

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    lowest: float
    finite: bool
    vocab_size: int
    fetch: Callable[[], NDArray[np.float32]]
