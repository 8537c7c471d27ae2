"""A family of models: how its settings and its tensors become ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..model import GPTConfig, LayerKind, Seq2SeqConfig
from .layout import LLAMA, Layout
from .pair import PairLayout
from .rope import Rotation
from .settings import SourceSettings

__all__ = [
    "Family",
    "activation",
    "alike",
    "layer_types",
    "longest",
    "placed",
    "plausible",
    "sizes",
    "softcap",
    "window",
    "windows",
    "with_biases",
]

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
WIDTH = ("hidden_size", "n_embd", "d_model")  # names of the width of the stream
# Beyond any model: damaged settings must not take all memory before the tensors are looked at.
MOST_LAYERS, WIDEST_HEAD = 1024, 4096


@dataclass(frozen=True)
class Family:
    """A family of models, by the `model_type` of config.json.

    Attributes:
        model_type: the name in config.json.
        models: the models that it is known for.
        config: from their settings to ours; raises through `SourceSettings.error`.
        layout: the names of the tensors, or a function that tells them from the settings.
        pair: whether it is an encoder-decoder.
        generation: settings of generation and special ids, where config.json says nothing.
        began_as_code: whether its first checkpoints brought code of their own (`auto_map`). That
            code is never run; transformers has the same model since.
    """

    model_type: str
    models: str
    config: Callable[[SourceSettings], GPTConfig | Seq2SeqConfig]
    layout: Layout | Callable[[SourceSettings], Layout | PairLayout] = LLAMA
    began_as_code: bool = False
    pair: bool = False
    generation: dict[str, Any] = field(default_factory=dict)

    def layout_for(self, source: SourceSettings) -> Layout | PairLayout:
        """Return the names of the tensors of a checkpoint with these settings."""
        return self.layout if isinstance(self.layout, Layout) else self.layout(source)


def sizes(
    source: SourceSettings,
    *,
    norm_eps: float = 1e-6,
    tied: bool = False,
    gated: bool = True,
    head_dim: int | None = None,
    block_size: int | None = None,
) -> GPTConfig:
    """Return our settings of a model in the manner of Llama, without its positions.

    It has RMSNorm before each sub-layer, no biases, and a gated feed-forward layer. A family
    replaces what is different.

    Args:
        source: settings of the checkpoint.
        norm_eps: the family's default.
        tied: whether the family shares embedding and head unless the settings say otherwise.
        gated: whether the non-linearity is of a gate.
        head_dim: the family's default width of a head; None: an equal share of the stream.
        block_size: the family's default longest text; None: the settings must say it.
    """
    n_head = source.whole("num_attention_heads", "n_head", "num_heads", "attention_heads")
    config = GPTConfig(
        vocab_size=source.whole("vocab_size"),
        block_size=longest(source, block_size),
        n_layer=source.whole("num_hidden_layers", "n_layer", "num_layers"),
        n_head=n_head,
        n_kv_head=source.whole("num_key_value_heads", default=n_head),
        head_dim=source.whole("head_dim", default=head_dim or _share(source, n_head)),
        n_embd=source.whole(*WIDTH),
        n_ff=source.whole(
            "intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", default=_wide(source)
        ),
        norm="rmsnorm",
        norm_eps=source.number(
            "rms_norm_eps",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "norm_epsilon",
            "norm_eps",
            default=norm_eps,
        ),
        position="none",
        activation="silu",
        gated=gated,
        proj_bias=False,
        ff_bias=False,
        tie_embeddings=source.flag("tie_word_embeddings", default=tied),
    )
    return plausible(source, config)


def plausible(source: SourceSettings, config: GPTConfig) -> GPTConfig:
    """Return `config`; refuse sizes that no model has."""
    if config.n_layer > MOST_LAYERS or config.head_dim > WIDEST_HEAD:
        raise source.error(
            f"{config.n_layer} layers with heads {config.head_dim} wide cannot be right; import "
            f"takes up to {MOST_LAYERS} layers and heads up to {WIDEST_HEAD} wide"
        )
    return config


def longest(source: SourceSettings, default: int | None = None) -> int:
    """Return the longest text of the model, in tokens."""
    return source.whole(
        "max_position_embeddings",
        "n_positions",
        "max_sequence_length",
        "block_size",
        default=default,
    )


def activation(source: SourceSettings, *names: str, default: str = "silu") -> Any:
    """Return our name of the non-linearity that the setting names."""
    theirs = source.word(*(names or ("hidden_act",)), default=default)
    if theirs not in ACTIVATIONS:
        raise source.error(
            f"the activation {theirs!r:.80} is not known; known: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[theirs]


def with_biases(source: SourceSettings, config: GPTConfig) -> GPTConfig:
    """Return `config` with the biases that Llama's two settings ask for."""
    attention = source.flag("attention_bias", default=False)
    feed_forward = source.flag("mlp_bias", default=False)
    return replace(config, qkv_bias=attention, proj_bias=attention, ff_bias=feed_forward)


def softcap(source: SourceSettings, name: str, *, default: float = 0.0) -> float:
    """Return the bound of a softcap; 0: none, which the setting says by null."""
    return 0.0 if source.is_null(name) else source.number(name, default=default)


def window(source: SourceSettings, *, default: int = 0) -> int:
    """Return the width of the window; 0: none, which the setting says by null.

    `default` is the family's width if the setting is missing.
    """
    name = "sliding_window"
    return 0 if source.is_null(name) else source.whole(name, default=default)


def windows(
    source: SourceSettings, config: GPTConfig, width: int, usual: Callable[[int], bool]
) -> list[int]:
    """Return the window of each layer, `width` or 0: none; see `layer_types`."""
    own = layer_types(source, config, usual)
    if any(own) and not width:
        raise source.error("some layers have a window, but sliding_window gives no width")
    return [width if has_window else 0 for has_window in own]


def placed(
    source: SourceSettings, config: GPTConfig, layers: Sequence[tuple[int, Rotation | None]]
) -> GPTConfig:
    """Return `config` with a window (0: none) and a rotation (None: none) for each layer.

    The block is cut to what the rotations allow, and a note says so. A window that is as wide as
    the block hides nothing, and is left out.
    """
    limits = [rotation.limit for _, rotation in layers if rotation and rotation.limit]
    block_size = min([config.block_size, *limits])
    kinds = []
    for width, rotation in layers:
        kind = LayerKind(width if width < block_size else 0)
        if rotation is not None:
            kind = replace(kind, rotary=rotation.angles, rotary_factor=rotation.factor)
        kinds.append(kind)
    distinct = tuple(dict.fromkeys(kinds))
    if block_size < config.block_size:
        source.notes.append(
            f"the model is cut from {config.block_size:,} to {block_size:,} tokens: beyond, its "
            f"rotary angles or its scale depend on the length of the text"
        )
    rotates = any(rotation is not None for _, rotation in layers)
    return replace(
        config,
        block_size=block_size,
        position="rope" if rotates else config.position,
        layer_kinds=distinct,
        layer_kind=tuple(distinct.index(kind) for kind in kinds),
    )


def alike(source: SourceSettings, config: GPTConfig, rotation: Rotation | None) -> GPTConfig:
    """Return `config` with one rotation and no window for all layers."""
    return placed(source, config, [(0, rotation)] * config.n_layer)


def layer_types(
    source: SourceSettings, config: GPTConfig, usual: Callable[[int], bool]
) -> list[bool]:
    """Return for each layer whether its attention has the window.

    The setting `layer_types` says so; without it, `usual` tells it from the layer's number.
    """
    listed = source.listed("layer_types")
    if listed is None:
        return [usual(layer) for layer in range(config.n_layer)]
    known = {"sliding_attention": True, "full_attention": False}
    unknown = [kind for kind in listed if kind not in [*known]]  # it may be no text, but a list
    if unknown or len(listed) != config.n_layer:
        raise source.error(
            f"layer_types has {unknown[0]!r:.80}, which is not a known type of attention"
            if unknown
            else f"layer_types has {len(listed)} entries for {config.n_layer} layers"
        )
    return [known[kind] for kind in listed]


def _share(source: SourceSettings, n_head: int) -> int:
    """Return the width of a head if nothing else is said: an equal share of the stream."""
    width = source.whole(*WIDTH)
    if source.values.get("head_dim") is None and width % n_head:
        raise source.error(f"the width {width} is not a multiple of the {n_head} heads")
    return width // n_head


def _wide(source: SourceSettings) -> int:
    return 4 * source.whole(*WIDTH)
