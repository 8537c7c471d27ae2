"""Choose the next token from one row of logits.

The order is fixed: edits (see `edits`; the repetition penalty is the first of them), temperature,
top-k, top-p, min-p. The remaining tokens are sampled with the Gumbel-max trick, argmax(logit /
temperature + noise), on the host and in float64. Unlike inverting a cumulative distribution, this
choice hardly reacts to the last bits of the logits. Two engines that agree within the tolerance of
a receipt therefore almost always write the same text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle.fields import finite
from ..bundle.usage import RANGES
from ..errors import InvalidInputError, NumericalError
from .edits import Edit, RepetitionPenalty, forbidden
from .largest import FEW, lower_bound, magnitude
from .logprobs import TokenLogprob
from .philox import gumbel

__all__ = ["Choice", "Sampling", "choose"]

HEADS = (64, 512)  # how many of the best scores are ranked before all are


@dataclass(frozen=True)
class Sampling:
    """How to pick a token. `temperature` 0 takes the most likely one; None or 0 turns top-k off."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, (expected, holds) in RANGES.items():
            _require(getattr(self, name), name, expected, holds)
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 0):
            raise InvalidInputError(
                f"top_k is {self.top_k!r}; it must be a whole number of 0 (off) or more"
            )

    @property
    def filters(self) -> bool:
        """Whether some ids are left out before the draw."""
        return bool(self.top_k) or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edit of logits that is part of these settings, if there is one."""
        penalty = self.repetition_penalty
        return () if penalty == 1.0 else (RepetitionPenalty(penalty),)


class Choice(NamedTuple):
    """The chosen token, the lead of its score over the runner-up's, and whether that is a near tie.

    `gap`, the lead, is infinite if there was no other candidate. `near_tie` says that logits within
    the tolerance of these could have led to another token. `logprob` is for callers who want it.
    """

    token: int
    gap: float
    near_tie: bool
    logprob: TokenLogprob | None = None


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    history: Sequence[int],
    *,
    seed: int,
    series: int,
    step: int,
    tolerance: float = 0.0,
    edits: Sequence[Edit] = (),
    named: int | None = None,
) -> Choice:
    """Pick the next token.

    Args:
        logits: float32 [V].
        sampling: the settings.
        history: ids of the text so far, for the edits.
        seed: 64-bit key of the random numbers.
        series: 64-bit number that tells this text from others under the same seed.
        step: number of this token in its text, counted from 0.
        tolerance: error of the logits, relative to the largest; decides what a near tie is.
        edits: edits of the logits, after the one of `sampling`.
        named: only ids below it can be chosen; None: all ids can.

    Raises:
        NumericalError: if a logit is NaN or +inf, or if all are -inf.
        InvalidInputError: if the edits forbid every id.
    """
    edits = (*sampling.edits, *edits)
    place = int(logits.argmax())  # the place of NaN, if there is one
    best = float(logits[place])
    if not math.isfinite(best):
        raise NumericalError(
            f"the logits for token {step} hold {_bad_kind(logits)}: the model or the engine is "
            f"broken; run `edgegpt verify` on the bundle"
        )
    reach = 2 * tolerance * magnitude(logits, best)  # two logits may come closer by this much
    scores: NDArray[np.floating[Any]] = logits
    if edits:
        # Only a penalty computes; the other edits forbid, and need no better numbers.
        exact = any(edit.stretch != 1.0 for edit in edits)
        scores = logits.astype(np.float64) if exact else logits.copy()
        for edit in edits:
            edit.apply(scores, history, step)
            reach *= edit.stretch
    scores = scores[:named]
    if edits or place >= len(scores):
        place = int(scores.argmax())
        if scores[place] == -math.inf:
            raise forbidden(step)
    if sampling.temperature == 0.0:
        gap = _lead(scores, place)
        return Choice(place, gap, gap <= reach)
    ids = _candidates(scores, sampling, reach)
    noise = partial(gumbel, seed, series, step, vocab_size=len(logits))
    return _draw(ids, scores[ids].astype(np.float64), sampling, reach, noise)


def _draw(
    ids: NDArray[np.int64],
    scores: NDArray[np.float64],
    sampling: Sampling,
    reach: float,
    noise: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> Choice:
    """Return the best of the ids that the filters keep, by score and noise.

    The `scores` [N] of `ids` [N], which are in rising order, may be off by `reach`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # A tiny temperature makes all but the best -inf, and the reach infinite.
        scores = (scores - scores.max()) / sampling.temperature
        reach = float(np.float64(reach) / sampling.temperature)
        if not sampling.filters:
            noisy = scores + noise(ids)
            place = int(noisy.argmax())
            gap = _lead(noisy, place)
            return Choice(int(ids[place]), gap, gap <= reach)
        order, (surely, kept, perhaps) = _ranking(scores, sampling, reach)
    ids, ranked = ids[order[:perhaps]], scores[order[:perhaps]]
    noisy = ranked + noise(ids)
    place = int(noisy[:kept].argmax())
    gap = _lead(noisy, place)
    return Choice(int(ids[place]), gap, gap <= reach or place >= surely)


def _ranking(
    scores: NDArray[np.float64], sampling: Sampling, reach: float
) -> tuple[NDArray[np.int64], tuple[int, int, int]]:
    """Return the places of the best scores [N], the best first, and how many the filters keep.

    To sort a large vocabulary takes longer than a step of a small model. So the few best are tried
    first. They suffice if the filters certainly stop before the last of them.
    """
    whole = None if sampling.top_k else float(np.exp(scores).sum())
    for few in HEADS if whole is not None else ():
        if len(scores) < FEW * few:
            break
        places = np.flatnonzero(scores >= lower_bound(scores, few))
        order = places[np.argsort(-scores[places], kind="stable")]
        limits = _limits(scores[order], sampling, reach, whole)
        if limits[-1] < len(order):
            return order, limits
    order = np.argsort(-scores, kind="stable")
    return order, _limits(scores[order], sampling, reach, whole)


def _candidates(
    scores: NDArray[np.floating[Any]], sampling: Sampling, reach: float
) -> NDArray[np.int64]:
    """Return ids that could be chosen, in rising order.

    With top-k in a large vocabulary, these are the ids whose scores are above a lower bound of the
    k-th largest, less `reach`.
    """
    if not sampling.top_k or len(scores) < FEW * sampling.top_k:
        return np.arange(len(scores))
    limit = np.float32(lower_bound(scores, sampling.top_k) - reach)
    found: NDArray[np.int64] = (scores >= np.nextafter(limit, np.float32(-np.inf))).nonzero()[0]
    return found


def _limits(
    ranked: NDArray[np.float64], sampling: Sampling, reach: float, whole: float | None
) -> tuple[int, int, int]:
    """Return how many of the falling scores the filters keep: surely, as computed, and perhaps.

    All filters keep a prefix of the ranking. The three numbers differ if scores that are off by up
    to `reach` could change ranks across the end of the prefix, or move that end. `whole` is the
    mass of all ids, relative to that of the best; None: of these.
    """
    surely, kept, perhaps = _prefixes(ranked, sampling, (-reach, 0.0, reach), whole)
    if reach > 0.0 and kept < len(ranked):
        surely = min(surely, int(np.count_nonzero(ranked[:kept] >= ranked[kept] + reach)))
        perhaps = max(perhaps, int(np.count_nonzero(ranked >= ranked[kept - 1] - reach)))
    return surely, kept, perhaps


def _prefixes(
    ranked: NDArray[np.float64],
    sampling: Sampling,
    slacks: Sequence[float],
    whole: float | None,
) -> list[int]:
    """Return how many of the sorted scores top-k, top-p and min-p keep, at least one.

    A positive slack, in units of the score, loosens the limits of top-p and min-p by that much. A
    negative slack tightens them.
    """
    if sampling.top_p == 1.0 and sampling.min_p == 0.0:
        return [len(ranked[: sampling.top_k or None])] * len(slacks)
    weights = np.exp(ranked[: sampling.top_k or None] - ranked[0])  # unnormalised, the best is 1
    better = np.cumsum(weights) - weights  # mass of all better ids
    if whole is None:
        whole = float(better[-1] + weights[-1])
    counts = []
    for slack in slacks:
        kept = len(weights)
        if sampling.top_p < 1.0:
            kept = int(better.searchsorted(_loosened(sampling.top_p, slack) * whole))
        if sampling.min_p > 0.0:
            limit = sampling.min_p * math.exp(min(-slack, 700.0))
            kept = min(kept, int(np.count_nonzero(weights >= limit)))
        counts.append(max(kept, 1))
    return counts


def _loosened(mass: float, slack: float) -> float:
    """Return the share that the best ids, which have this share, reach if scores are changed.

    If the others lose `slack` against them, the odds of the two are multiplied by exp(slack).
    """
    return mass if slack == 0.0 else 1.0 / (1.0 + (1.0 / mass - 1.0) * math.exp(min(-slack, 700.0)))


def _lead(scores: NDArray[np.floating[Any]], place: int) -> float:
    """Return how far scores[place] is ahead of the best other score."""
    before, after = scores[:place], scores[place + 1 :]
    others = max(
        float(before.max()) if len(before) else -math.inf,
        float(after.max()) if len(after) else -math.inf,
    )
    return float(scores[place]) - others


def _bad_kind(logits: NDArray[np.float32]) -> str:
    if np.isnan(logits).any():
        return "NaN"
    return "+inf" if np.isposinf(logits).any() else "nothing but -inf"


def _require(value: float, name: str, expected: str, holds: Callable[[float], bool]) -> None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not finite(value) or not holds(value):
        raise InvalidInputError(f"{name} is {value!r:.60}; it must be a number {expected}")
