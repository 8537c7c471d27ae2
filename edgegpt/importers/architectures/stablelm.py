"""StableLM 3B and 2: LayerNorm, a part of each head rotated, perhaps parallel with one norm."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import LLAMA, Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ROTATED = 0.25  # of a head


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be("qk_layernorm", False, why="it normalises queries and keys by LayerNorm")
    config = replace(
        sizes(source, norm_eps=1e-5),
        norm="layernorm",
        parallel=_is_parallel(source),
        activation=activation(source),
        qkv_bias=source.flag("use_qkv_bias", default=False),
    )
    return alike(source, config, rotation_of(source, config.head_dim, partial=ROTATED))


def _is_parallel(source: SourceSettings) -> bool:
    return source.flag("use_parallel_residual", default=False)


def _layout(source: SourceSettings) -> Layout:
    return replace(LLAMA, norm_2="input_layernorm") if _is_parallel(source) else LLAMA


FAMILIES = [Family("stablelm", "StableLM 3B, StableLM 2 1.6B", _config, _layout)]
