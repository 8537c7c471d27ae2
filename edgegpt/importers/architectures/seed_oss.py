"""Seed-OSS: Llama with biases on queries, keys and values."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

HEAD_DIM = 128


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, head_dim=HEAD_DIM),
        activation=activation(source),
        qkv_bias=source.flag("attention_bias", default=True),
        proj_bias=source.flag("attention_out_bias", default=False),
        ff_bias=source.flag("mlp_bias", default=False),
    )
    return alike(source, config, rotation_of(source, config.head_dim))


FAMILIES = [Family("seed_oss", "Seed-OSS", _config)]
