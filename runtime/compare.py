"""How far two sets of logits are apart, and how far they may be.

The error is measured against the largest reference logit, since that is the scale on which the
rounding of a dot product grows; the tolerances are justified in docs/proof.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCES", "Difference", "compare", "is_tie"]

# Largest error relative to max |reference logit|, by precision of the bundle.
TOLERANCES = {"float32": 1e-5}

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


def compare(found: Logits, reference: Logits) -> Difference:
    """Compare logits [N, V] with the reference [N, V].

    Returns max |found - reference|; the same divided by max |reference|; the largest KL divergence
    KL(softmax(reference) || softmax(found)) of a position, in nats; and the share of positions
    with the same most likely token. Anything not finite makes the errors infinite.
    """
    agreement = float(np.mean(found.argmax(axis=-1) == reference.argmax(axis=-1)))
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return Difference(np.inf, np.inf, np.inf, agreement, len(reference))
    wide, wide_reference = found.astype(np.float64), reference.astype(np.float64)
    max_abs = float(np.abs(wide - wide_reference).max())
    log_p, log_q = _log_softmax(wide_reference), _log_softmax(wide)
    kl = float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).max())
    scale = float(np.abs(wide_reference).max())
    relative = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else np.inf)
    return Difference(max_abs, relative, max(kl, 0.0), agreement, len(reference))


def is_tie(reference: Logits, margin: float, tolerance: float) -> bool:
    """Return whether an engine within `tolerance` may pick another token at this position.

    `reference` is the row [V] of logits and `margin` its lead of the best over the second: each of
    the two may move by tolerance * max |logit|.
    """
    return margin <= 2 * tolerance * float(np.abs(reference).max())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _worse(first: float, second: float) -> float:
    """Return the larger one; NaN counts as largest."""
    return float(np.maximum(first, second))
