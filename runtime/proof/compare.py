"""How far two sets of logits are apart.

The error is measured relative to the largest reference logit, because the rounding error of a dot
product grows with that scale. docs/proof.md justifies the tolerances.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.golden import Top
from ..generation.log_loss import log_sum_exp

__all__ = [
    "Difference",
    "Rows",
    "compare",
    "compare_rows",
]


TINY = 1e-9  # least probability of all ids that were not kept, together

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
        """Return the worse errors of both, with the agreement over all positions."""
        positions = self.positions + other.positions
        agreeing = self.top1_agreement * self.positions + other.top1_agreement * other.positions
        return Difference(
            max_abs=_worse(self.max_abs, other.max_abs),
            relative=_worse(self.relative, other.relative),
            kl=_worse(self.kl, other.kl),
            top1_agreement=agreeing / positions,
            positions=positions,
        )


def _columns(found: Logits, reference: Logits, top: Top | None) -> tuple[Logits, Logits]:
    """Return the columns to compare: all logits, or the best K and the log-sum-exp of all.

    `found` is [N, V]; `reference` is [N, V], or [N, K] with `top`. Returns two arrays of
    [N, V or K + 1].
    """
    if top is None:
        return found, reference
    own = np.take_along_axis(found, top.ids.astype(np.int64), axis=-1)  # (N, K)
    own_sum = log_sum_exp(found).astype(np.float32)  # (N, 1)
    return (
        np.concatenate([own, own_sum], axis=-1),
        np.concatenate([reference, top.log_sum_exp[:, None]], axis=-1),
    )


@dataclass(frozen=True)
class Rows:
    """Three arrays [N], one value for each position: max |found - reference|, KL divergence in
    nats, and whether both have the same most likely token.
    """

    max_abs: NDArray[np.float64]
    kl: NDArray[np.float64]
    agree: NDArray[np.bool_]

    def summary(self, scale: float) -> Difference:
        """Return the figures over all positions, with the error also relative to `scale`."""
        max_abs = float(self.max_abs.max())
        relative = max_abs / scale if 0 < scale < np.inf else (0.0 if max_abs == 0 else np.inf)
        kl = float(self.kl.max())
        return Difference(max_abs, relative, kl, float(self.agree.mean()), len(self.agree))


def compare(
    found: Logits, reference: Logits, top: Top | None = None, scale: float | None = None
) -> Difference:
    """Compare logits [N, V] with the reference [N, V], or with its best K [N, K] and `top`.

    Returns max |found - reference|; the same divided by `scale` (default: max |reference|); the
    largest KL divergence KL(softmax(reference) || softmax(found)) of a position, in nats, where all
    ids that were not kept count as one; and the share of positions with the same most likely token.
    A logit that is not finite makes the errors infinite.
    """
    largest = float(np.abs(reference).max()) if scale is None else scale
    return compare_rows(found, reference, top).summary(largest)


def compare_rows(found: Logits, reference: Logits, top: Top | None = None) -> Rows:
    """Return the figures of each position, which `compare` summarises."""
    best = reference.argmax(axis=-1)
    if top is not None:
        best = np.take_along_axis(top.ids, best[:, None], axis=-1)[:, 0]
    agree = found.argmax(axis=-1) == best
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        infinite = np.full(len(reference), np.inf)
        return Rows(infinite, infinite, agree)
    own, wanted = (part.astype(np.float64) for part in _columns(found, reference, top))
    log_p, log_q = _log_probabilities(wanted, top), _log_probabilities(own, top)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).clip(min=0.0)
    return Rows(np.abs(own - wanted).max(axis=-1), kl, agree)


def _log_probabilities(values: NDArray[np.float64], top: Top | None) -> NDArray[np.float64]:
    """Return log-probabilities of columns: of all ids, or of the kept ids and all others as one."""
    if top is None:
        shares: NDArray[np.float64] = values - log_sum_exp(values)
        return shares
    kept = values[:, :-1] - values[:, -1:]
    rest = np.log1p(-np.exp(kept).sum(axis=-1, keepdims=True).clip(max=1 - TINY))
    return np.concatenate([kept, rest], axis=-1)


def _worse(first: float, second: float) -> float:
    """Return the larger number; NaN counts as the largest."""
    return float(np.maximum(first, second))
