"""Phi-3, Phi-4-mini: Llama with packed projections; some with LongRoPE and partial rotation."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes, window
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ORIGINAL = 4096  # the longest text before LongRoPE, if the setting is missing


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(sizes(source, norm_eps=1e-5), activation=activation(source))
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        source.must_be(name, False, why="Phi-3 has no biases")
    for name in ("full_attn_mod", "interpolate_factor"):
        source.must_be(name, 1, why="only Phi-3 without it is known")
    rotation = rotation_of(source, config.head_dim, partial=1.0, original=ORIGINAL)
    return placed(source, config, [(window(source), rotation)] * config.n_layer)


LAYOUT = Layout(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")
FAMILIES = [Family("phi3", "Phi-3, Phi-3.5-mini, Phi-4-mini", _config, LAYOUT, began_as_code=True)]
