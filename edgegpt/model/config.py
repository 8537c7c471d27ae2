"""The settings of a model: its shape and its switches."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_type_hints

from ..errors import InvalidInputError
from ..settings import check_types, from_table

__all__ = ["GPTConfig"]

FOLLOWS: Any = None  # the default of a setting that is filled in from the others


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. An unknown key or an impossible value is refused.

    If `n_kv_head` is left out or None, it becomes `n_head`; `n_ff` becomes 4 * `n_embd`.
    """

    vocab_size: Annotated[int, "number of token ids"]
    block_size: Annotated[int, "longest text the model sees, in tokens"]
    n_layer: Annotated[int, "number of transformer blocks"]
    n_head: Annotated[int, "query heads per block"]
    n_embd: Annotated[int, "width of the residual stream"]
    n_kv_head: Annotated[int, "key/value heads per block; default: n_head"] = FOLLOWS
    n_ff: Annotated[int, "width of the feed-forward layer; default: 4 * n_embd"] = FOLLOWS
    norm: Annotated[Literal["layernorm", "rmsnorm"], "normalisation before each sub-layer"] = (
        "layernorm"
    )
    norm_eps: Annotated[float, "added to the variance inside the norm"] = 1e-5
    position: Annotated[Literal["learned", "rope"], "how positions enter the model"] = "learned"
    rope_theta: Annotated[float, "base of the rotary frequencies"] = 10000.0
    activation: Annotated[
        Literal["relu", "gelu", "gelu_tanh", "swiglu"], "feed-forward non-linearity"
    ] = "relu"
    attention_scale: Annotated[
        Literal["head_dim", "n_embd"], "scores are multiplied by this width to the power -1/2"
    ] = "head_dim"
    qkv_bias: Annotated[bool, "bias on query, key and value"] = False
    bias: Annotated[bool, "bias on the attention projection, feed-forward and LayerNorm"] = True
    head_bias: Annotated[bool, "bias on the output head"] = False
    tie_embeddings: Annotated[bool, "the output head shares the token embedding's weight"] = False
    dropout: Annotated[float, "probability, while training"] = 0.0

    def __post_init__(self) -> None:
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if self.n_ff is None and isinstance(self.n_embd, int):
            object.__setattr__(self, "n_ff", 4 * self.n_embd)
        check_types(self)
        self._check_values()

    def _check_values(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is int and value < 1:
                raise InvalidInputError(f"{name} is {value}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise InvalidInputError(
                f"n_embd ({self.n_embd}) is not a multiple of n_head ({self.n_head})"
            )
        if self.n_head % self.n_kv_head:
            raise InvalidInputError(
                f"n_head ({self.n_head}) is not a multiple of n_kv_head ({self.n_kv_head})"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise InvalidInputError(f"rope needs an even head width, not {self.head_dim}")
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInputError(f"dropout is {self.dropout}; it must be in [0, 1)")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name} is {value}; it must be greater than 0")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def scale(self) -> float:
        """Factor on the attention scores; head_dim**-0.5 is Vaswani et al. 2017, section 3.2.1."""
        width = self.head_dim if self.attention_scale == "head_dim" else self.n_embd
        return math.pow(width, -0.5)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GPTConfig":
        """Build a config from parsed JSON or TOML; the error names unknown and missing keys."""
        return from_table(cls, values, "model")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, the filled-in ones included."""
        return asdict(self)
