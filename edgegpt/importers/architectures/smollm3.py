"""SmolLM3: Llama without positions in every fourth layer."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes, window, windows, with_biases
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

THETA = 2000000.0
INTERVAL = 4


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(sizes(source, tied=True), activation=activation(source))
    config = with_biases(source, config)
    rotation, rotates = rotation_of(source, config.head_dim, theta=THETA), _rotates(source, config)
    width = window(source) if source.flag("use_sliding_window", default=False) else 0
    own = windows(source, config, width, lambda layer: width > 0 and not rotates[layer])
    source.ignore("sliding_window", "max_window_layers")  # the latter has no effect at all
    layers = zip(own, rotates, strict=True)
    return placed(source, config, [(each, rotation if turns else None) for each, turns in layers])


def _rotates(source: SourceSettings, config: GPTConfig) -> list[bool]:
    """Return for each layer whether it has positions."""
    interval = source.whole("no_rope_layer_interval", default=INTERVAL)
    listed = source.listed("no_rope_layers")  # 1 for a layer that has them, despite the name
    if listed is None:
        return [(layer + 1) % interval != 0 for layer in range(config.n_layer)]
    if len(listed) != config.n_layer or not all(each in (0, 1) for each in listed):
        raise source.error(f"no_rope_layers must have a 0 or 1 for each of {config.n_layer} layers")
    return [bool(each) for each in listed]


FAMILIES = [Family("smollm3", "SmolLM3", _config)]
