"""Arcee AFM: Llama whose feed-forward layer squares a ReLU, without a gate."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes, with_biases
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False), activation=activation(source, default="relu2")
    )
    config = with_biases(source, config)
    return alike(source, config, rotation_of(source, config.head_dim))


FAMILIES = [Family("arcee", "Arcee AFM-4.5B", _config)]
