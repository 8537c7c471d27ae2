"""Llama 1 to 3, TinyLlama, SmolLM, SmolLM2: the family that the others are compared with.

InternLM3, IQuest-Coder and the Code World Model are the same by other names, with other defaults.
"""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, placed, sizes, window, windows, with_biases
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    config = with_biases(source, replace(sizes(source), activation=activation(source)))
    source.ignore("rope_interleaved", "is_llama_config")  # SmolLM2's; both have no effect
    return alike(source, config, rotation_of(source, config.head_dim))


def _internlm_3(source: SourceSettings) -> GPTConfig:
    attention = source.flag("attention_bias", "qkv_bias", default=False)
    others = source.flag("mlp_bias", "bias", default=False)
    config = replace(_later(source), qkv_bias=attention, proj_bias=others, ff_bias=others)
    return alike(source, config, rotation_of(source, config.head_dim))


def _iquest_coder(source: SourceSettings) -> GPTConfig:
    source.must_be("use_sliding_window", False, why="transformers does not know its windows")
    source.ignore("sliding_window", "max_window_layers")
    config = with_biases(source, _later(source))
    return alike(source, config, rotation_of(source, config.head_dim))


def _code_world_model(source: SourceSettings) -> GPTConfig:
    """Every fourth layer sees all tokens, from the first one on."""
    if not source.table("rope_parameters") and not source.table("rope_scaling"):
        raise source.error("the setting rope_parameters is missing")
    config = replace(_later(source), ff_bias=source.flag("mlp_bias", default=False))
    rotation = rotation_of(source, config.head_dim, theta=1000000.0)
    width = window(source, default=8192)
    own = windows(source, config, width, lambda layer: layer % 4 != 0)
    return placed(source, config, [(each, rotation) for each in own])


def _later(source: SourceSettings) -> GPTConfig:
    """Return the sizes, with the defaults of these later models."""
    config = sizes(source, norm_eps=1e-5, head_dim=128)
    return replace(config, activation=activation(source))


FAMILIES = [
    Family("llama", "Llama 1-3, TinyLlama, SmolLM, SmolLM2, Vicuna, Yi", _config),
    Family("internlm3", "InternLM3", _internlm_3, began_as_code=True),
    Family("iquestcoder", "IQuest-Coder V1", _iquest_coder, began_as_code=True),
    Family("cwm", "Code World Model (CWM)", _code_world_model),
]
