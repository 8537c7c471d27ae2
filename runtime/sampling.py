"""From one row of logits to the next token.

The order is fixed: repetition penalty, temperature, top-k, top-p, min-p. What is left is sampled
with the Gumbel-max trick, argmax(logit / temperature + noise), on the host and in float64. Unlike
inverting a cumulative distribution, that choice hardly reacts to the last bits of the logits, so
that two engines which agree within the tolerance of a receipt almost always write the same text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidInputError, NumericalError
from .philox import gumbel

__all__ = ["Choice", "Sampling", "choose"]


@dataclass(frozen=True)
class Sampling:
    """How to pick a token. `temperature` 0 takes the most likely one; None or 0 turns top-k off."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _require(self.temperature, "temperature", "0 or more", lambda t: t >= 0)
        _require(self.top_p, "top_p", "above 0 and at most 1", lambda p: 0 < p <= 1)
        _require(self.min_p, "min_p", "from 0 to 1", lambda p: 0 <= p <= 1)
        _require(self.repetition_penalty, "repetition_penalty", "above 0", lambda p: p > 0)
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 0):
            raise InvalidInputError(
                f"top_k is {self.top_k!r}; it must be a whole number of 0 (off) or more"
            )


class Choice(NamedTuple):
    """A token, and how far its score was ahead of the runner-up's (inf if there was none)."""

    token: int
    gap: float


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    history: Sequence[int],
    *,
    seed: int,
    stream: int,
    step: int,
) -> Choice:
    """Pick the next token.

    Args:
        logits: float32 [V].
        sampling: the settings.
        history: ids of the text so far, for the repetition penalty.
        seed: 64-bit key of the random numbers.
        stream: 64-bit number that tells this text from others under the same seed.
        step: number of this token in its text, counted from 0.

    Raises:
        NumericalError: if a logit is NaN or +inf, or if all are -inf.
    """
    best = logits.max()
    if not np.isfinite(best):
        raise NumericalError(
            f"the logits for token {step} hold {_bad_kind(logits)}: the model or the engine is "
            f"broken; run `edgegpt verify` on the bundle"
        )
    scores = logits.astype(np.float64)  # (V,)
    if sampling.repetition_penalty != 1.0 and len(history):
        _penalise(scores, np.unique(np.asarray(history)), sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return _first_and_gap(scores, np.arange(len(scores)))
    scores = (scores - scores.max()) / sampling.temperature  # at most 0: a tiny divisor is safe
    kept = _candidates(scores, sampling)
    return _first_and_gap(scores[kept] + gumbel(seed, stream, step, kept), kept)


def _penalise(scores: NDArray[np.float64], seen: NDArray[np.int64], penalty: float) -> None:
    """Divide positive, multiply negative scores of seen ids (Keskar et al. 2019, section 4.1)."""
    values = scores[seen]
    scores[seen] = np.where(values > 0, values / penalty, values * penalty)


def _candidates(scores: NDArray[np.float64], sampling: Sampling) -> NDArray[np.int64]:
    """Return the ids, ascending, that top-k, top-p and min-p leave over; at least one.

    All three keep a prefix of the ids sorted by falling score, ties by id.
    """
    order = np.argsort(-scores, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp(scores[order] - scores[order[0]])  # unnormalised, the best one is 1
    if sampling.top_p < 1.0:
        before = np.cumsum(weights) - weights  # mass of all better ids
        count = int(np.count_nonzero(before < sampling.top_p * weights.sum()))
        order, weights = order[: max(count, 1)], weights[: max(count, 1)]
    if sampling.min_p > 0.0:
        order = order[weights >= sampling.min_p]
    kept: NDArray[np.int64] = np.sort(order)
    return kept


def _first_and_gap(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> Choice:
    """Return the id of the highest score, the lowest id in a tie, and its lead."""
    place = int(scores.argmax())
    if len(scores) == 1:
        return Choice(int(ids[place]), math.inf)
    runner_up = max(scores[:place].max(initial=-np.inf), scores[place + 1 :].max(initial=-np.inf))
    return Choice(int(ids[place]), float(scores[place] - runner_up))


def _bad_kind(logits: NDArray[np.float32]) -> str:
    if np.isnan(logits).any():
        return "NaN"
    return "+inf" if np.isposinf(logits).any() else "nothing but -inf"


def _require(value: float, name: str, expected: str, holds: Callable[[float], bool]) -> None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not holds(value):
        raise InvalidInputError(f"{name} is {value!r}; it must be a number {expected}")
