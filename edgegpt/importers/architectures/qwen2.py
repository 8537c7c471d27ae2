"""Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen: biases on q, k, v; windows in the upper layers."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes, window, windows
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES", "windowed"]

WINDOW = 4096  # if the setting is missing; null means none


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(sizes(source), activation=activation(source), qkv_bias=True)
    return windowed(source, config)


def windowed(source: SourceSettings, config: GPTConfig) -> GPTConfig:
    """Return `config` with the rotation, and with windows from `max_window_layers` on, if any."""
    source.must_be("use_mrope", False, why="its positions have three axes, for images")
    rotation = rotation_of(source, config.head_dim)
    first = source.number("max_window_layers", default=28)
    if not source.flag("use_sliding_window", default=False):
        source.ignore("layer_types", "sliding_window")
        return placed(source, config, [(0, rotation)] * config.n_layer)
    width = window(source, default=WINDOW)
    own = windows(source, config, width, lambda layer: width > 0 and layer >= first)
    return placed(source, config, [(each, rotation) for each in own])


FAMILIES = [Family("qwen2", "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen", _config)]
