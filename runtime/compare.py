"""How far two sets of logits are apart, and how far they may be.

The error is measured against the largest reference logit, since that is the scale on which the
rounding of a dot product grows; the tolerances are justified in docs/proof.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TOLERANCES",
    "Difference",
    "Top",
    "columns",
    "compare",
    "divergence",
    "is_tie",
    "log_sum_exp",
]

# Largest error relative to max |reference logit|, by precision of the bundle.
TOLERANCES = {"float32": 1e-5, "int8": 0.2, "int4": 0.2}

TINY = 1e-9  # probability that is left to the ids that were not kept, at least

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How an engine's logits differ from the reference; see `compare` for the figures."""

    max_abs: float
    relative: float
    kl: float
    top1_agreement: float
    positions: int

    def join(self, other: "Difference") -> "Difference":
        """Return the worst of both, with the agreement over all positions."""
        positions = self.positions + other.positions
        agreeing = self.top1_agreement * self.positions + other.top1_agreement * other.positions
        return Difference(
            max_abs=_worse(self.max_abs, other.max_abs),
            relative=_worse(self.relative, other.relative),
            kl=_worse(self.kl, other.kl),
            top1_agreement=agreeing / positions,
            positions=positions,
        )


@dataclass(frozen=True)
class Top:
    """Where the reference's logits are only the best K of each position: ids [N, K], and the
    log-sum-exp [N] of all V logits, which moves when any of the others does.
    """

    ids: NDArray[np.integer[Any]]
    log_sum_exp: NDArray[np.float32]

    def rows(self, first: int, end: int) -> "Top":
        """Return the part that belongs to positions first .. end - 1."""
        return Top(self.ids[first:end], self.log_sum_exp[first:end])


def columns(found: Logits, reference: Logits, top: Top | None) -> tuple[Logits, Logits]:
    """Return what is compared, column by column: all logits, or the best ones and the sum of all.

    `found` is [N, V]; `reference` is [N, V], or [N, K] with `top`. Returns two of [N, V or K + 1].
    """
    if top is None:
        return found, reference
    own = np.take_along_axis(found, top.ids.astype(np.int64), axis=-1)  # (N, K)
    own_sum = log_sum_exp(found.astype(np.float64)).astype(np.float32)  # (N, 1)
    return (
        np.concatenate([own, own_sum], axis=-1),
        np.concatenate([reference, top.log_sum_exp[:, None]], axis=-1),
    )


def compare(
    found: Logits, reference: Logits, top: Top | None = None, scale: float | None = None
) -> Difference:
    """Compare logits [N, V] with the reference [N, V], or with its best K [N, K] and `top`.

    Returns max |found - reference|; the same divided by `scale` (default: max |reference|); the
    largest KL divergence KL(softmax(reference) || softmax(found)) of a position, in nats, with all
    logits that were not kept as one; and the share of positions with the same most likely token.
    Anything not finite makes the errors infinite.
    """
    best = reference.argmax(axis=-1)
    if top is not None:
        best = np.take_along_axis(top.ids, best[:, None], axis=-1)[:, 0]
    agreement = float(np.mean(found.argmax(axis=-1) == best))
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return Difference(np.inf, np.inf, np.inf, agreement, len(reference))
    wide, wide_reference = (part.astype(np.float64) for part in columns(found, reference, top))
    max_abs = float(np.abs(wide - wide_reference).max())
    kl = float(divergence(found, reference, top).max())
    if scale is None:
        scale = float(np.abs(reference).max())
    relative = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else np.inf)
    return Difference(max_abs, relative, kl, agreement, len(reference))


def divergence(found: Logits, reference: Logits, top: Top | None = None) -> NDArray[np.float64]:
    """Return KL(softmax(reference) || softmax(found)) of each position, float64 [N], in nats.

    Arguments as for `compare`; logits that were not kept count as one outcome.
    """
    wide, wide_reference = (part.astype(np.float64) for part in columns(found, reference, top))
    log_p, log_q = _log_probabilities(wide_reference, top), _log_probabilities(wide, top)
    kl: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return kl.clip(min=0.0)


def is_tie(reference: Logits, margin: float, tolerance: float) -> bool:
    """Return whether an engine within `tolerance` may pick another token at this position.

    `reference` is the row [V] of logits and `margin` its lead of the best over the second: each of
    the two may move by tolerance * max |logit|.
    """
    return margin <= 2 * tolerance * float(np.abs(reference).max())


def _log_probabilities(values: NDArray[np.float64], top: Top | None) -> NDArray[np.float64]:
    """Return log-probabilities of columns: of all ids, or of the kept ones and of all the rest."""
    if top is None:
        shares: NDArray[np.float64] = values - log_sum_exp(values)
        return shares
    kept = values[:, :-1] - values[:, -1:]
    rest = np.log1p(-np.exp(kept).sum(axis=-1, keepdims=True).clip(max=1 - TINY))
    return np.concatenate([kept, rest], axis=-1)


def log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(sum(exp(values))) over the last axis, which stays as one of size 1."""
    largest = values.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = largest + np.log(
        np.exp(values - largest).sum(axis=-1, keepdims=True)
    )
    return result


def _worse(first: float, second: float) -> float:
    """Return the larger one; NaN counts as largest."""
    return float(np.maximum(first, second))
