"""Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen: biases on q, k, v; windows in the upper layers."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, layer_types, placed, sizes
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES", "windowed"]


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(sizes(source), activation=activation(source), qkv_bias=True)
    return windowed(source, config)


def windowed(source: SourceSettings, config: GPTConfig) -> GPTConfig:
    """Return `config` with the rotation, and with windows from `max_window_layers` on, if any."""
    source.must_be("use_mrope", False, why="its positions have three axes, for images")
    rotation = rotation_of(source, config.head_dim)
    first = source.number("max_window_layers", default=28)
    width = source.number("sliding_window", default=4096)
    if not source.flag("use_sliding_window", default=False):
        source.ignore("layer_types")
        return placed(source, config, [(0, rotation)] * config.n_layer)
    has_window = layer_types(source, config, lambda layer: layer >= first)
    return placed(source, config, [(int(width) if own else 0, rotation) for own in has_window])


FAMILIES = [Family("qwen2", "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen", _config)]
