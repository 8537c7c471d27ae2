"""Granite 3: Llama with factors on embedding, scores, sub-layers and logits (muP)."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes, with_biases
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    config = with_biases(source, replace(sizes(source), activation=activation(source)))
    config = replace(
        config,
        embedding_scale=source.number("embedding_multiplier", default=1.0),
        residual_scale=source.number("residual_multiplier", default=1.0),
        attention_scale=source.number("attention_multiplier", default=1.0),
    )
    return alike(source, config, rotation_of(source, config.head_dim))


def _layout(source: SourceSettings) -> Layout:
    return Layout(final_scale=1.0 / source.positive("logits_scaling", default=1.0))


FAMILIES = [Family("granite", "Granite 3 (dense)", _config, _layout)]
