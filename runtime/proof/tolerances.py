"""How far an engine's logits may be from the reference; docs/proof.md justifies the numbers."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.golden import Golden
from ..bundle.vocabulary import Precision
from ..bundle.widening import wide_graph
from ..engines.base import Engine
from ..engines.support import NATIVE

__all__ = ["TOLERANCES", "is_tie", "tolerance_key", "tolerance_of"]

Key = Precision | Literal["tf32", "half cache", "half weights"]

# Largest error relative to max |reference logit|, by precision of the bundle, or "tf32" where an
# engine rounds float32 products to TF32, or "half cache" where it keeps keys and values in float16,
# or "half weights" where it computes a float16 graph in float32; see `tolerance_of`.
#
# TF32: rounding the operands of all products in PyTorch gave errors of 5e-4 to 2e-3 on the shipped
# model and on random ones.
# Half cache: rounding all keys and values to float16 in PyTorch gave 2.3e-4 on the shipped model,
# 6.4e-4 on SmolLM2-135M, and up to 2.2e-3 on 307 random ones. The limit is not quite three times
# the worst. Other precisions have wider limits, which hold for them with such a cache, too.
# Half weights: the reference has the same weights, and factors that float16 holds; but constants of
# the graph, as in GELU, are rounded, too. 5 random models of 2 to 8 layers had errors of 2e-6 to
# 7e-6 where there are none, and of up to 4.8e-5 elsewhere. The limit is ten times the worst.
# float16: PyTorch's own error is 6e-4 on the shipped model and 1e-3 to 6.4e-3 on small random
# models. An engine that sums in another order may have the same error in the other direction, so
# the limit is three times the worst. bfloat16 has three bits of mantissa less, so its limit is
# eight times as large (PyTorch: 5e-3, and 1e-2 to 5.7e-2).
TOLERANCES: dict[Key, float] = {
    "float32": 1e-5,
    "tf32": 1e-2,
    "half cache": 6e-3,
    "half weights": 5e-4,
    "float16": 2e-2,
    "bfloat16": 1.6e-1,
    "int8": 0.2,
    "int4": 0.2,
}

Logits = NDArray[np.float32]


def tolerance_key(precision: Precision, *, tf32: bool, half_cache: bool = False) -> Key:
    """Return the key of the table above for a bundle of `precision` on an engine."""
    if precision != "float32" or not (tf32 or half_cache):
        return precision
    return "tf32" if tf32 else "half cache"


def tolerance_of(bundle: Bundle, engine: Engine, golden: Golden | None = None) -> float:
    """Return the largest error, relative to max |logit|, that an engine may have.

    It may be off from the golden vectors by what the bundle's precision costs in its arithmetic.
    Without golden vectors it is how far it may be from the float32 model.
    """
    precision, info = bundle.manifest.precision, engine.info
    if engine.graph.part == "half":  # the reference has the same integers
        precision = "float16"
    elif golden is not None and golden.rounded and _is_widened(bundle, engine):
        return TOLERANCES["half weights"]
    return TOLERANCES[tolerance_key(precision, tf32=info.tf32, half_cache=info.half_cache)]


def _is_widened(bundle: Bundle, engine: Engine) -> bool:
    """Return whether an engine computes in float32 what a graph has written in float16.

    A native engine reads no graph: it rotates by angles that are not rounded.
    """
    written = bundle.manifest.graphs
    widened = engine.graph not in written and engine.graph in map(wide_graph, written)
    return widened and engine.info.name != NATIVE


def is_tie(reference: Logits, margin: float, tolerance: float) -> bool:
    """Return whether an engine within `tolerance` may pick another token at this position.

    `reference` is the row [V] of logits, and `margin` is the lead of its best logit over the second
    one. Each of the two may move by tolerance * max |logit|.
    """
    return margin <= 2 * tolerance * float(np.abs(reference).max())
