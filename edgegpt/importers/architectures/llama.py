"""Llama 1 to 3, TinyLlama, SmolLM, SmolLM2: the family that the others are compared with."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes, with_biases
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    config = with_biases(source, replace(sizes(source), activation=activation(source)))
    source.ignore("rope_interleaved", "is_llama_config")  # SmolLM2's; both have no effect
    return alike(source, config, rotation_of(source, config.head_dim))


FAMILIES = [Family("llama", "Llama 1-3, TinyLlama, SmolLM, SmolLM2, Vicuna, Yi", _config)]
