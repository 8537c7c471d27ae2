"""Jais 2: LayerNorm, biases, squared ReLU."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=True)
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False),
        norm="layernorm",
        activation=activation(source, default="relu2"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=source.flag("mlp_bias", default=True),
    )
    return alike(source, config, rotation_of(source, config.head_dim))


FAMILIES = [Family("jais2", "Jais 2", _config)]
