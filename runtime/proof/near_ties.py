"""How far logits may be off where tokens are chosen, which decides what a near tie is."""

from ..bundle.bundle import Bundle
from ..engines.base import Engine
from .receipt_store import known, missing_proof
from .tolerances import TOLERANCES, tolerance_of

__all__ = ["tie_tolerance"]


def tie_tolerance(bundle: Bundle, engine: Engine) -> float:
    """Return the error of logits, relative to the largest, that a result counts with.

    It is the largest one that the receipts of this bundle have where tokens were chosen: so far
    was an engine off, this one or the exporting machine's. It is at least the limit of float32. An
    engine without a receipt may be off by all that its precision allows.
    """
    limit = tolerance_of(bundle, engine)
    if missing_proof(bundle, engine.graph.name, engine.info) is not None:
        return limit
    errors = [receipt.error for receipt in known(bundle) if receipt.outcome == "passed"]
    return min(limit, max(TOLERANCES["float32"], *errors))
