"""EXAONE 3 (Llama under other names) and 4 (output norms, per-head norms, local rotation)."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, placed, sizes, window, windows, with_biases
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings
from .olmo2 import OUTPUT_NORMS

__all__ = ["FAMILIES"]

THETA = 500000.0  # of EXAONE 3
WINDOW = 4096


def _exaone_3(source: SourceSettings) -> GPTConfig:
    config = sizes(source, norm_eps=1e-5)
    config = replace(config, activation=activation(source, "activation_function", "hidden_act"))
    config = with_biases(source, config)
    return alike(source, config, rotation_of(source, config.head_dim, theta=THETA))


def _exaone_4(source: SourceSettings) -> GPTConfig:
    """If there are windows, layers without one have no positions."""
    config = replace(
        sizes(source, norm_eps=1e-5),
        norm_placement="output",
        qk_norm="head",
        activation=activation(source),
    )
    rotation, width = rotation_of(source, config.head_dim), window(source, default=WINDOW)
    every = 1
    if width and source.listed("layer_types") is None:
        every = source.whole("sliding_window_pattern", default=4)
    source.ignore("sliding_window_pattern")  # "LLLG" in files that have layer_types
    own = windows(source, config, width, lambda layer: (layer + 1) % every != 0)
    return placed(source, config, [(each, rotation if each or not width else None) for each in own])


EXAONE_3 = Layout(
    prefix="transformer.",
    token="transformer.wte",
    layer="transformer.h.{}.",
    norm_1="ln_1",
    norm_2="ln_2",
    q="attn.attention.q_proj",
    k="attn.attention.k_proj",
    v="attn.attention.v_proj",
    proj="attn.attention.out_proj",
    gate="mlp.c_fc_0",
    up="mlp.c_fc_1",
    down="mlp.c_proj",
    final="transformer.ln_f",
    ignored=(r".*\.rotary\.inv_freq", r".*\.rotary_emb\.inv_freq"),
)
FAMILIES = [
    Family("exaone", "EXAONE 3, 3.5", _exaone_3, EXAONE_3, began_as_code=True),
    Family("exaone4", "EXAONE 4", _exaone_4, OUTPUT_NORMS, began_as_code=True),
]
