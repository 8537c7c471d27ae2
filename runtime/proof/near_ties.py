"""How far the logits of two engines may be apart, which decides what a near tie is."""

from ..bundle.bundle import Bundle
from ..engines.base import Engine
from .receipt_store import known, missing_proof
from .tolerances import TOLERANCES, tolerance_of

__all__ = ["tie_tolerance"]


def tie_tolerance(bundle: Bundle, engine: Engine) -> float:
    """Return how far another engine's logits may be from this one's, relative to the largest.

    The receipts of this bundle, those of this machine and of the exporting one, have errors where
    tokens were chosen. Two engines that are each as far from PyTorch as the worst of these are up
    to twice as far from each other. It is at least the limit of float32. An engine without a
    receipt may be off by all that its precision allows.
    """
    limit = tolerance_of(bundle, engine)
    if missing_proof(bundle, engine.graph.name, engine.info) is not None:
        return limit
    errors = [receipt.error for receipt in known(bundle) if receipt.outcome == "passed"]
    return min(limit, max(TOLERANCES["float32"], 2 * max(errors)))
