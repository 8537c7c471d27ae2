"""OLMo 1: Llama with LayerNorm that has no weights."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import LLAMA
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=False)
    config = replace(
        sizes(source),
        norm="layernorm",
        norm_eps=1e-5,  # not a setting of this family
        norm_bias=False,
        activation=activation(source),
        qkv_bias=bias,
        proj_bias=bias,
    )
    return alike(source, config, rotation_of(source, config.head_dim))


FAMILIES = [Family("olmo", "OLMo 1", _config, replace(LLAMA, norm_1=None, norm_2=None, final=None))]
