"""The settings of a model: its shape and its switches."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, get_type_hints

from ..errors import InvalidInputError
from ..settings import LARGEST, check_types, from_table
from .rotary import frequencies

__all__ = ["GPTConfig", "LayerKind"]

FOLLOWS: Any = None  # the default of a setting that is filled in from the others
ROPE_THETA = 10000.0
LARGEST_MATRIX = LARGEST >> 8  # values: three such, of 8 bytes each, are of a size that fits


@dataclass(frozen=True)
class LayerKind:
    """How the attention of a layer sees positions.

    Attributes:
        window: a token sees itself and the `window` - 1 tokens before it; 0: all tokens before it.
        rotary: the angles, in radians, by which one position turns each pair of a head; the pairs
            are i and i + R of the first 2 * R values, where R is the number of angles. Empty: the
            layer has no rotation.
        rotary_factor: factor on the cosines and sines.
    """

    window: int = 0
    rotary: tuple[float, ...] = ()
    rotary_factor: float = 1.0


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. An unknown key or an impossible value is refused.

    If `n_kv_head` is left out or None, it becomes `n_head`; `n_ff` becomes 4 * `n_embd`, `head_dim`
    becomes `n_embd` / `n_head`, and `attention_scale` becomes `head_dim` to the power -1/2.

    If layers differ in how they see positions, `layer_kinds` lists the kinds, and `layer_kind` has
    the index of each layer's kind. Otherwise both are empty, and `position` says everything.
    """

    vocab_size: Annotated[int, "number of token ids"]
    block_size: Annotated[int, "longest text the model sees, in tokens"]
    n_layer: Annotated[int, "number of transformer blocks"]
    n_head: Annotated[int, "query heads per block"]
    n_embd: Annotated[int, "width of the residual stream"]
    n_kv_head: Annotated[int, "key/value heads per block; default: n_head"] = FOLLOWS
    head_dim: Annotated[int, "width of a head; default: n_embd / n_head"] = FOLLOWS
    n_ff: Annotated[int, "width of the feed-forward layer; default: 4 * n_embd"] = FOLLOWS
    norm: Annotated[Literal["layernorm", "rmsnorm"], "kind of normalisation"] = "layernorm"
    norm_eps: Annotated[float, "added to the variance inside the norm"] = 1e-5
    norm_bias: Annotated[bool, "bias in LayerNorm"] = True
    norm_placement: Annotated[
        Literal["pre", "output", "sandwich", "post"],
        "normalise what a sub-layer reads, what it writes, both, or the stream after it",
    ] = "pre"
    final_norm: Annotated[bool, "normalise the stream after the last block"] = True
    embedding_norm: Annotated[bool, "normalise the embeddings"] = False
    parallel: Annotated[bool, "attention and feed-forward read the same stream"] = False
    position: Annotated[
        Literal["learned", "sinusoidal", "rope", "relative", "none"],
        "how positions enter the model",
    ] = "learned"
    rope_theta: Annotated[float, "base of the rotary frequencies"] = ROPE_THETA
    relative_buckets: Annotated[int, "biases by distance that a head has"] = 32
    relative_distance: Annotated[int, "distance from which on the last bias serves"] = 128
    relative_shared: Annotated[bool, "all layers have the same biases by distance"] = True
    layer_kinds: tuple[LayerKind, ...] = ()
    layer_kind: tuple[int, ...] = ()
    activation: Annotated[
        Literal["relu", "relu2", "gelu", "gelu_tanh", "silu"], "feed-forward non-linearity"
    ] = "relu"
    gated: Annotated[bool, "the non-linearity is of a gate that multiplies the widened input"] = (
        False
    )
    qk_norm: Annotated[
        Literal["none", "head", "full"], "RMSNorm of queries and keys, each head or all at once"
    ] = "none"
    attention_scale: Annotated[float, "factor on the scores; default: head_dim ** -0.5"] = FOLLOWS
    attention_softcap: Annotated[float, "scores become c * tanh(score / c); 0: they stay"] = 0.0
    logit_softcap: Annotated[float, "logits become c * tanh(logit / c); 0: they stay"] = 0.0
    embedding_scale: Annotated[float, "factor on the token embedding"] = 1.0
    residual_scale: Annotated[float, "factor on what a sub-layer adds to the stream"] = 1.0
    qkv_bias: Annotated[bool, "bias on query, key and value"] = False
    proj_bias: Annotated[bool, "bias on the projection after the attention"] = True
    ff_bias: Annotated[bool, "bias in the feed-forward layer"] = True
    head_bias: Annotated[bool, "bias on the output head"] = False
    tie_embeddings: Annotated[bool, "the output head shares the token embedding's weight"] = False
    dropout: Annotated[float, "probability, while training"] = 0.0

    def __post_init__(self) -> None:
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if self.n_ff is None and isinstance(self.n_embd, int):
            object.__setattr__(self, "n_ff", 4 * self.n_embd)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self._even_share())
        width = self.head_dim
        if self.attention_scale is None and isinstance(width, int):
            # Vaswani et al. 2017, section 3.2.1. An impossible width is refused below, by its name.
            scale = math.pow(min(max(width, 1), LARGEST), -0.5)
            object.__setattr__(self, "attention_scale", scale)
        check_types(self)
        self._check_values()
        self._check_kinds()

    def _even_share(self) -> Any:
        """Return n_embd / n_head; if one of them is unusable, something that is refused later."""
        if not (type(self.n_embd) is type(self.n_head) is int and self.n_head > 0):
            return 1
        if self.n_embd % self.n_head:
            raise InvalidInputError(
                f"n_embd ({self.n_embd!r:.40}) is not a multiple of n_head ({self.n_head!r:.40}), "
                f"so that head_dim has to be given"
            )
        return self.n_embd // self.n_head

    def _check_values(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is int and value < 1:
                raise InvalidInputError(f"{name} is {value}; it must be at least 1")
        positions = self.block_size if self.position == "learned" else 1
        rows = max(self.vocab_size, positions, self.n_ff, self.n_head * self.head_dim)
        if rows * self.n_embd > LARGEST_MATRIX:
            raise InvalidInputError(f"a matrix of {rows:,} rows of {self.n_embd:,} is too large")
        if self.n_head % self.n_kv_head:
            raise InvalidInputError(
                f"n_head ({self.n_head}) is not a multiple of n_kv_head ({self.n_kv_head})"
            )
        if self.position == "rope" and not self.layer_kinds and self.head_dim % 2:
            raise InvalidInputError(f"rope needs an even head width, not {self.head_dim}")
        if self.parallel and self.norm_placement == "post":
            raise InvalidInputError("parallel sub-layers have no stream between them to normalise")
        if self.position == "relative" and self.attention_softcap:
            raise InvalidInputError("biases by distance and capped scores do not go together")
        if self.relative_buckets % 4 or self.relative_distance <= self.relative_buckets:
            raise InvalidInputError(
                f"relative_buckets is {self.relative_buckets} and relative_distance "
                f"{self.relative_distance}; the first must be a multiple of 4, the second larger"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInputError(f"dropout is {self.dropout}; it must be in [0, 1)")
        for name in (
            "norm_eps",
            "rope_theta",
            "attention_scale",
            "embedding_scale",
            "residual_scale",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name} is {value}; it must be greater than 0")
        for name in ("attention_softcap", "logit_softcap"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(f"{name} is {value}; it must be 0 or greater")

    def _check_kinds(self) -> None:
        """Refuse kinds of layers that contradict each other or the rest."""
        if not self.layer_kinds and not self.layer_kind:
            return
        if len(self.layer_kind) != self.n_layer or not all(
            type(index) is int and 0 <= index < len(self.layer_kinds) for index in self.layer_kind
        ):
            raise InvalidInputError(
                f"layer_kind must have {self.n_layer} indices of the {len(self.layer_kinds)} "
                f"layer_kinds, one for each layer"
            )
        for kind in self.layer_kinds:
            if type(kind.window) is not int or kind.window < 0:
                raise InvalidInputError(f"the window of a layer is {kind.window!r}, not a count")
            if kind.rotary and (self.position != "rope" or 2 * len(kind.rotary) > self.head_dim):
                raise InvalidInputError(
                    f"a layer rotates {2 * len(kind.rotary)} values of heads that are "
                    f"{self.head_dim} wide, and position is {self.position!r}"
                )
            if not all(
                isinstance(angle, float) and math.isfinite(angle)
                for angle in (*kind.rotary, kind.rotary_factor)
            ):
                raise InvalidInputError("the rotary angles of a layer are not finite numbers")

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in order."""
        if self.layer_kinds:
            return tuple(self.layer_kinds[index] for index in self.layer_kind)
        rotary = frequencies(self.rope_theta, self.head_dim) if self.position == "rope" else ()
        return (LayerKind(rotary=rotary),) * self.n_layer

    def limited(self, context: int) -> "GPTConfig":
        """Return the settings of the same model for texts of at most `context` tokens.

        A window as wide as that never cuts anything off, and is dropped.
        """
        if not 1 <= context <= self.block_size:
            raise InvalidInputError(
                f"context is {context}; the model can see 1 to {self.block_size} tokens"
            )
        kinds = [
            replace(kind, window=0) if kind.window >= context else kind for kind in self.layer_kinds
        ]
        distinct = tuple(dict.fromkeys(kinds))
        return replace(
            self,
            block_size=context,
            layer_kinds=distinct,
            layer_kind=tuple(distinct.index(kinds[index]) for index in self.layer_kind),
        )

    def cut_by(self, context: int) -> list[str]:
        """Return what `limited` leaves out, as sentences for the user."""
        sentences = []
        if context < self.block_size:
            sentences.append(f"the model sees {context:,} of its {self.block_size:,} tokens")
        wide = sorted({kind.window for kind in self.kinds if context <= kind.window})
        if wide:
            sentences.append(
                f"windows of {' and '.join(f'{window:,}' for window in wide)} tokens are left out, "
                f"because no text is longer"
            )
        return sentences

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GPTConfig":
        """Build a config from parsed JSON or TOML; the error names unknown and missing keys."""
        return from_table(cls, values | _parsed_kinds(values), "model")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON has them, the filled-in ones included."""
        values = asdict(self)
        for kind in values["layer_kinds"]:
            kind["rotary"] = list(kind["rotary"])
        return values | {name: list(values[name]) for name in ("layer_kinds", "layer_kind")}


def _parsed_kinds(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings about kinds of layers, with lists and tables as tuples and LayerKinds."""
    found: dict[str, Any] = {}
    for name in {"layer_kinds", "layer_kind"}.intersection(values):
        if not isinstance(values[name], list | tuple):
            raise InvalidInputError(f"{name} is {values[name]!r:.60}, which is not a list")
        found[name] = tuple(values[name])
    kinds = []
    for entry in found.get("layer_kinds", ()):
        if not isinstance(entry, dict) or not isinstance(entry.get("rotary", ()), list | tuple):
            raise InvalidInputError(f"a kind of layer is {entry!r:.60}, which is not a table")
        table = from_table(LayerKind, entry, "layer kind")
        kinds.append(replace(table, rotary=tuple(table.rotary)))
    return found | ({"layer_kinds": tuple(kinds)} if kinds else {})
