"""The cost of quantisation: KL divergence, top-1 agreement and perplexity on a held-out text.

The reference is the float32 model's logits. At export they come from PyTorch, on a device from the
golden vectors. Both places compute the same figures.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..bundle.golden import Top
from ..bundle.manifest import Quality
from ..generation.log_loss import log_loss
from .compare import compare_rows

__all__ = ["BUDGETS", "LARGEST_LOSS", "QualitySum"]

# Largest mean KL(float32 || quantised) per token, in nats, that an export accepts by default.
BUDGETS = {"int8": 0.002, "int4": 0.05}

LARGEST_LOSS = 700.0  # nats; exp of much more overflows a float

Logits = NDArray[np.float32]


class QualitySum:
    """Adds up the figures of positions, and returns their means."""

    def __init__(self) -> None:
        self.kl = self.agreeing = self.loss = 0.0
        self.tokens = 0

    def add(
        self, found: Logits, reference: Logits, targets: NDArray[np.int64], top: Top | None = None
    ) -> None:
        """Add positions: logits [N, V], the reference's [N, V] (or [N, K] with `top`), and the ids
        [N] that follow in the text.
        """
        rows = compare_rows(found, reference, top)
        self.kl += float(rows.kl.sum())
        self.agreeing += float(rows.agree.sum())
        self.loss += float(log_loss(found, targets).sum())
        self.tokens += len(targets)

    def result(self) -> Quality:
        """Return the means; at least one position must have been added."""
        count = self.tokens
        loss = self.loss / count
        return Quality(
            kl=self.kl / count,
            top1_agreement=self.agreeing / count,
            perplexity=math.exp(min(loss, LARGEST_LOSS)),
            tokens=count,
        )
