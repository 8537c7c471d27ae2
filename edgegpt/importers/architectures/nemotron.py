"""Nemotron-3/4, Minitron: norms that multiply by 1 + w, squared ReLU, a part of a head rotated."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import LLAMA
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ROTATED = 0.5  # of a head


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=False)
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False),
        norm="layernorm",
        activation=activation(source, default="relu2"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=source.flag("mlp_bias", default=False),
    )
    return alike(source, config, rotation_of(source, config.head_dim, partial=ROTATED))


FAMILIES = [Family("nemotron", "Nemotron-4, Minitron", _config, replace(LLAMA, norm_offset=1.0))]
