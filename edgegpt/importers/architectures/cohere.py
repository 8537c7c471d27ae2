"""Cohere's Command R and Aya: one norm without bias, parallel, rotary by pairs, scaled logits."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, layer_types, placed, sizes, window, windows
from ..layout import LLAMA, Layout
from ..rope import AXES, Rotation, rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LOGIT_SCALE = 0.0625
WINDOW = 4096
PATTERN = 4  # every fourth layer sees all tokens
THETA_1, THETA_2 = 500000.0, 10000.0


def _common(source: SourceSettings) -> GPTConfig:
    source.must_be("use_qk_norm", False, why="it normalises queries and keys by LayerNorm")
    bias = source.flag("attention_bias", default=False)
    return replace(
        sizes(source, norm_eps=1e-5, tied=True),
        norm="layernorm",
        norm_bias=False,
        parallel=True,
        activation=activation(source),
        qkv_bias=bias,
        proj_bias=bias,
    )


def _first(source: SourceSettings) -> GPTConfig:
    config = _common(source)
    source.ignore("model_max_length")  # of the tokenizer
    return alike(source, config, rotation_of(source, config.head_dim, theta=THETA_1))


def _second(source: SourceSettings) -> GPTConfig:
    """Return the settings of Command R7B: windows with, and full layers without a rotation."""
    config = _common(source)
    source.ignore("use_parallel_embedding")  # where it was trained: how its table was spread
    _check_names_of_parts(source)
    if source.is_null("sliding_window"):
        raise source.error("sliding_window is null, which would leave the model without positions")
    width = source.whole("sliding_window", default=WINDOW)
    pattern = source.whole("sliding_window_pattern", "layer_switch", default=PATTERN)
    source.ignore("_sliding_window_pattern")  # comes with layer_types, which outrank it
    has_window = layer_types(source, config, lambda layer: (layer + 1) % pattern != 0)
    rotation = rotation_of(source, config.head_dim, theta=THETA_2)
    return placed(source, config, [(width, rotation) if own else (0, None) for own in has_window])


def _compass(source: SourceSettings) -> GPTConfig:
    """Return the settings of North Micro: each type of layer has a rotation of its own, or none."""
    config = _common(source)
    source.ignore("pooling")  # of classifiers
    given = source.table("rope_parameters")
    own = windows(source, config, window(source, default=WINDOW), lambda layer: False)
    layers = []
    for width in own:
        kind = "sliding_attention" if width else "full_attention"
        if kind not in given:
            raise source.error(f"rope_parameters has nothing for {kind}")
        layers.append((width, _compass_rotation(source, given[kind], config)))
    return placed(source, config, layers)


def _compass_rotation(
    source: SourceSettings, parameters: object, config: GPTConfig
) -> Rotation | None:
    """Return the rotation of a type of layer; null means none."""
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise source.error(f"rope_parameters has {parameters!r:.80}, which is not a table")
    kept = {name: value for name, value in parameters.items() if name not in AXES}
    values = {"rope_parameters": kept, "max_position_embeddings": config.block_size}
    return rotation_of(SourceSettings(values, source.where), config.head_dim, theta=THETA_2)


def _check_names_of_parts(source: SourceSettings) -> None:
    """Refuse other parts than those of Command R7B, whose config.json names them."""
    for name, known in {
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
    }.items():
        source.must_be(name, known, why=f"the family is known with {known!r} only")


def _layout(source: SourceSettings) -> Layout:
    scale = source.number("logit_scale", default=LOGIT_SCALE)
    return replace(LLAMA, norm_2="input_layernorm", paired_rotary=True, final_scale=scale)


def _compass_layout(source: SourceSettings) -> Layout:
    scale = source.number("logit_scale", default=1.0)
    return replace(LLAMA, norm_2="input_layernorm", final_scale=scale)


FAMILIES = [
    Family(
        "cohere", "Command R, Command R+ (without qk-norm), Aya 23, Aya Expanse", _first, _layout
    ),
    Family("cohere2", "Command R7B, Command A", _second, _layout),
    Family("cohere_compass_text", "North Micro (text)", _compass, _compass_layout),
]
