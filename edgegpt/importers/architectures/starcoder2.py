"""StarCoder2: biases, a window on all layers, a feed-forward layer without a gate."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LAYOUT = Layout(up="mlp.c_fc", down="mlp.c_proj")


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be("mlp_type", "default", why="only the feed-forward layer without a gate is known")
    source.must_be("norm_type", "layer_norm", why="only LayerNorm is known in this family")
    bias = source.flag("use_bias", default=True)
    config = replace(
        sizes(source, norm_eps=1e-5, tied=True, gated=False),
        norm="layernorm",
        activation=activation(source, default="gelu_pytorch_tanh"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=bias,
    )
    has_window = source.values.get("sliding_window") is not None
    window = source.whole("sliding_window") if has_window else 0
    rotation = rotation_of(source, config.head_dim)
    return placed(source, config, [(window, rotation)] * config.n_layer)


FAMILIES = [Family("starcoder2", "StarCoder2", _config, LAYOUT)]
