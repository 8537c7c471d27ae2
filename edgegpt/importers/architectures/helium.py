"""Helium: Llama in which neighbouring values are rotated."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

HEAD_DIM = 128
THETA = 100000.0


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, norm_eps=1e-8, head_dim=HEAD_DIM),
        activation=activation(source),
        qkv_bias=source.flag("attention_bias", default=False),
        ff_bias=source.flag("mlp_bias", default=False),
    )
    return alike(source, config, rotation_of(source, config.head_dim, theta=THETA))


FAMILIES = [Family("helium", "Helium 1", _config, Layout(paired_rotary=True))]
