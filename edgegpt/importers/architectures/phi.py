"""Phi-1, 1.5, 2: attention and feed-forward in parallel after one norm, biases everywhere."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ROTATED = 0.5  # of a head
LAYOUT = Layout(
    norm_2="input_layernorm",
    proj="self_attn.dense",
    up="mlp.fc1",
    down="mlp.fc2",
    final="model.final_layernorm",
)


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be("qk_layernorm", False, why="it normalises queries and keys by LayerNorm")
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False),
        norm="layernorm",
        parallel=True,
        activation=activation(source, default="gelu_new"),
        qkv_bias=True,
        proj_bias=True,
        ff_bias=True,
        head_bias=True,
    )
    return alike(source, config, rotation_of(source, config.head_dim, partial=ROTATED))


FAMILIES = [Family("phi", "Phi-1, Phi-1.5, Phi-2", _config, LAYOUT, began_as_code=True)]
