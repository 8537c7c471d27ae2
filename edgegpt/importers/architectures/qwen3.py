"""Qwen3: Qwen2 without biases; each head of queries and keys is normalised."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, sizes
from ..settings import SourceSettings
from .qwen2 import windowed

__all__ = ["FAMILIES"]

HEAD_DIM = 128


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=False)
    config = replace(
        sizes(source, head_dim=HEAD_DIM),
        activation=activation(source),
        qk_norm="head",
        qkv_bias=bias,
        proj_bias=bias,
    )
    return windowed(source, config)


FAMILIES = [Family("qwen3", "Qwen3 (dense)", _config)]
