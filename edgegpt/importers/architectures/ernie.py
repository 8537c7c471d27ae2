"""ERNIE 4.5 (dense): Llama in which neighbouring values are rotated."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

HEAD_DIM = 128
THETA = 500000.0


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be("use_rmsnorm", True, why="only ERNIE with RMSNorm is known")
    source.must_be("compression_ratio", 1, why="its positions are scaled")
    bias = source.flag("use_bias", default=False)
    config = replace(
        sizes(source, norm_eps=1e-5, tied=True, head_dim=HEAD_DIM),
        activation=activation(source),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=bias,
    )
    return alike(source, config, rotation_of(source, config.head_dim, theta=THETA))


LAYOUT = Layout(paired_rotary=True)
FAMILIES = [Family("ernie4_5", "ERNIE 4.5 (0.3B)", _config, LAYOUT, began_as_code=True)]
