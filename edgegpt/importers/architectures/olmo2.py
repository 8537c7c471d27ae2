"""OLMo 2 and 3: sub-layers write through a norm; queries and keys are normalised as a whole."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, placed, sizes, window, windows
from ..layout import Layout
from ..rope import rotation_of, rotations_of
from ..settings import SourceSettings

__all__ = ["FAMILIES", "OUTPUT_NORMS"]

WINDOW = 4096
THETA = 500000.0
OUTPUT_NORMS = Layout(
    norm_1=None,
    norm_1_out="post_attention_layernorm",
    norm_2=None,
    norm_2_out="post_feedforward_layernorm",
)


def _sizes(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=False)
    return replace(
        sizes(source, norm_eps=1e-5),
        norm_placement="output",
        qk_norm="full",
        activation=activation(source),
        qkv_bias=bias,
        proj_bias=bias,
    )


def _olmo_2(source: SourceSettings) -> GPTConfig:
    config = _sizes(source)
    return alike(source, config, rotation_of(source, config.head_dim))


def _olmo_3(source: SourceSettings) -> GPTConfig:
    """Three of four layers have windows; the scaling of the rotation is not for them."""
    config = _sizes(source)
    kinds = ("full_attention", "sliding_attention")
    bases = dict.fromkeys(kinds, ("rope_theta", THETA))
    full, local = rotations_of(source, config.head_dim, bases).values()
    width = window(source, default=WINDOW)
    own = windows(source, config, width, lambda layer: (layer + 1) % 4 != 0)
    return placed(source, config, [(each, local if each else full) for each in own])


FAMILIES = [
    Family("olmo2", "OLMo 2", _olmo_2, OUTPUT_NORMS),
    Family("olmo3", "OLMo 3", _olmo_3, OUTPUT_NORMS),
]
