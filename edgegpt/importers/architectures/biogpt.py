"""BioGPT: OPT's layers with a scaled embedding."""

import math
from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, sizes
from ..layout import Layout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LAYOUT = Layout(
    prefix="biogpt.",
    token="biogpt.embed_tokens",
    position="biogpt.embed_positions",
    position_offset=2,
    layer="biogpt.layers.{}.",
    norm_1="self_attn_layer_norm",
    norm_2="final_layer_norm",
    proj="self_attn.out_proj",
    up="fc1",
    down="fc2",
    final="biogpt.layer_norm",
    head="output_projection",
)


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, tied=True, gated=False),
        norm="layernorm",
        norm_eps=1e-5,  # the model does not follow its setting layer_norm_eps, which says 1e-12
        position="learned",
        activation=activation(source, default="gelu"),
        qkv_bias=True,
        proj_bias=True,
        ff_bias=True,
    )
    scaled = source.flag("scale_embedding", default=True)
    return replace(config, embedding_scale=math.sqrt(config.n_embd)) if scaled else config


FAMILIES = [Family("biogpt", "BioGPT", _config, LAYOUT)]
