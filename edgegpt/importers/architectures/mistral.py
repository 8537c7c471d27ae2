"""Mistral, Ministral: Llama with windows; later ones with YaRN and queries that grow."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes, window, windows
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

WINDOW = 4096  # if the setting is missing; null means none


def _mistral(source: SourceSettings) -> GPTConfig:
    return _one_window(source, sizes(source), window(source, default=WINDOW))


def _ministral(source: SourceSettings) -> GPTConfig:
    config = replace(sizes(source), activation=activation(source))
    width, rotation = window(source, default=WINDOW), rotation_of(source, config.head_dim)
    own = windows(source, config, width, lambda layer: width > 0)
    return placed(source, config, [(each, rotation) for each in own])


def _ministral_3(source: SourceSettings) -> GPTConfig:
    """Queries are multiplied by 1 + beta * log(1 + floor(position / original length)).

    The factor is 1 up to the original length, where the rotation has its limit.
    """
    if not source.table("rope_parameters"):
        raise source.error("the setting rope_parameters is missing")
    return _one_window(source, sizes(source, norm_eps=1e-5, head_dim=128), window(source))


def _one_window(source: SourceSettings, config: GPTConfig, width: int) -> GPTConfig:
    config = replace(config, activation=activation(source))
    rotation = rotation_of(source, config.head_dim)
    return placed(source, config, [(width, rotation)] * config.n_layer)


FAMILIES = [
    Family("mistral", "Mistral 7B, Zephyr", _mistral),
    Family("ministral", "Ministral 8B", _ministral),
    Family("ministral3", "Ministral 3 (text)", _ministral_3),
]
