"""Tiny models of any shape in any precision, as bundles for the native engine."""

from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from native_models import KINDS, bundle_of, narrow, quantised_bundle
from small_models import random_model

from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.vocabulary import Precision

__all__ = ["FLAVOURS", "Flavour", "made"]


@dataclass(frozen=True)
class Flavour:
    """How a bundle keeps its weights.

    Attributes:
        kind: type of all weights; "F32" if there are integers.
        bits: of the matrices in turn, where 32 are floats; (): all are floats.
        block: inputs of a block of integers of 4 bits.
    """

    kind: str = "F32"
    bits: tuple[int, ...] = ()
    block: int = 32

    @property
    def precision(self) -> Precision:
        """What the products compute in, as a bundle names it."""
        if self.bits:
            return "int4"
        return "bfloat16" if self.kind == "BF16" else "float32"


FLAVOURS = st.one_of(
    st.builds(Flavour, st.sampled_from(list(KINDS))),
    st.builds(
        Flavour,
        st.just("F32"),
        st.lists(st.sampled_from([4, 8, 32]), min_size=1, max_size=3).map(tuple),
        st.sampled_from([16, 32, 64, 128, 512]),
    ),
)


def made(config: GPTConfig, flavour: Flavour, folder: Path, seed: int = 0) -> tuple[Bundle, GPT]:
    """Write a random model to a new folder.

    Returns the bundle, and the model in float64 that computes what an engine has to compute of it.
    """
    model = random_model(config, seed)
    if flavour.bits:
        bundle = quantised_bundle(model, folder, flavour.bits, flavour.block)
    else:
        narrow(model, flavour.kind)
        bundle = bundle_of(model, folder, kind=flavour.kind)
    return bundle, model.double()
