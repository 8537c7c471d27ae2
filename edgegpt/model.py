"""The decoder-only transformer, in reading order: config, attention, feed-forward, block, GPT.

A few switches span the character GPT, GPT-2 and the Llama family. Each module has two paths over
the same weights: `forward`, plain and cache-free, which training and the golden vectors use, and
`forward_cached`, which keeps keys and values of earlier tokens and is what `edgegpt.export` turns
into ONNX. Training is in `training.py`, files in `checkpoint.py`, the cache operator in
`cached_attention.py`.

Shapes: B batch, T new tokens, S cache slots, C = n_embd, H = n_head, K = n_kv_head, D = head_dim,
V = vocab_size, P = positions whose logits are wanted.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cached_attention import cached_attention, rotate
from .errors import InvalidInputError

__all__ = ["GPT", "GPTConfig"]


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. An unknown key or an impossible value is refused.

    `n_kv_head` and `n_ff` of None are filled in: as many as `n_head`, and 4 * `n_embd`.
    """

    vocab_size: Annotated[int, "number of token ids"]
    block_size: Annotated[int, "longest text the model sees, in tokens"]
    n_layer: Annotated[int, "number of transformer blocks"]
    n_head: Annotated[int, "query heads per block"]
    n_embd: Annotated[int, "width of the residual stream"]
    n_kv_head: Annotated[int | None, "key/value heads per block; default: n_head"] = None
    n_ff: Annotated[int | None, "width of the feed-forward layer; default: 4 * n_embd"] = None
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
        self._check_types()
        self._check_values()

    def _check_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    choices = ", ".join(get_args(hint))
                    raise InvalidInputError(f"{name} is {value!r}; choose one of: {choices}")
                continue
            accepted = (int, float) if hint is float else (get_args(hint) or (hint,))
            # bool is an int to isinstance, but n_layer = true is a mistake.
            if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
                expected = " or ".join(kind.__name__ for kind in accepted)
                raise InvalidInputError(f"{name} is {value!r}, which is not of type {expected}")

    def _check_values(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is not float and type(value) is int and value < 1:
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
        return float(width) ** -0.5

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GPTConfig":
        """Build a config from parsed JSON or TOML; unknown and missing keys are named."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidInputError(f"unknown model setting: {', '.join(unknown)}")
        required = {"vocab_size", "block_size", "n_layer", "n_head", "n_embd"}
        missing = sorted(required - set(values))
        if missing:
            raise InvalidInputError(f"missing model setting: {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, the filled-in ones included."""
        return asdict(self)


class Attention(nn.Module):
    """Causal self-attention with one fused projection for all queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        qkv_width = (config.n_head + 2 * config.n_kv_head) * config.head_dim
        self.qkv = nn.Linear(config.n_embd, qkv_width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attend within `x` [B, T, C]; `rotary` holds cos and sin [block_size, D/2] or is None."""
        config = self.config
        batch, length, _ = x.shape
        heads, kv_heads, width = config.n_head, config.n_kv_head, config.head_dim
        q, k, v = self.qkv(x).split([heads * width, kv_heads * width, kv_heads * width], dim=-1)
        q = q.view(batch, length, heads, width).transpose(1, 2)  # (B, H, T, D)
        k = k.view(batch, length, kv_heads, width).transpose(1, 2)  # (B, K, T, D)
        v = v.view(batch, length, kv_heads, width).transpose(1, 2)  # (B, K, T, D)
        if rotary is not None:
            cos, sin = rotary[0][:length], rotary[1][:length]  # (T, D/2)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=True,
            dropout_p=config.dropout if self.training else 0.0,
            scale=config.scale,
            enable_gqa=kv_heads != heads,
        )  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(batch, length, heads * width)  # (B, T, C)
        return self.dropout(self.proj(y))

    def forward_cached(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        past_len: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from `x` [B, T, C] to the cache `past` (k, v) [B, K, S, D] and to itself.

        Row b's tokens take the cache slots from past_len[b] on. Returns the output and the new
        cache.
        """
        config = self.config
        cos, sin = (None, None) if rotary is None else rotary
        y, present_k, present_v = cached_attention(
            self.qkv(x),
            *past,
            past_len,
            cos,
            sin,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            scale=config.scale,
        )
        return self.proj(y), (present_k, present_v)


class FeedForward(nn.Module):
    """Widen, apply the non-linearity, narrow. SwiGLU (Shazeer 2020) adds a gate."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.n_embd, config.n_ff, bias=config.bias)
        if config.activation == "swiglu":
            self.gate = nn.Linear(config.n_embd, config.n_ff, bias=config.bias)
        self.down = nn.Linear(config.n_ff, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C], each token by itself."""
        wide = self.up(x)  # (B, T, n_ff)
        if self.activation == "relu":
            wide = F.relu(wide)
        elif self.activation == "swiglu":
            wide = F.silu(self.gate(x)) * wide
        else:
            wide = F.gelu(wide, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.dropout(self.down(wide))


def _norm(config: GPTConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)


class Block(nn.Module):
    """One layer: normalise, attend, add; normalise, feed forward, add."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = _norm(config)
        self.attention = Attention(config)
        self.norm_2 = _norm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map the residual stream [B, T, C] to the next one."""
        x = x + self.attention(self.norm_1(x), rotary)
        return x + self.feed_forward(self.norm_2(x))

    def forward_cached(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        past_len: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `forward`, for new tokens on top of a cache."""
        y, present = self.attention.forward_cached(self.norm_1(x), past, past_len, rotary)
        x = x + y
        return x + self.feed_forward(self.norm_2(x)), present


class GPT(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        else:
            cos, sin = rotary_table(config.block_size, config.head_dim, config.rope_theta)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_final = _norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return float logits [B, T, V] for int64 `ids` [B, T], T <= block_size; no cache."""
        length = ids.shape[1]
        if length > self.config.block_size:
            raise InvalidInputError(
                f"{length} tokens do not fit the block of {self.config.block_size}"
            )
        x = self.token_embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            x = x + self.position_embedding(torch.arange(length, device=ids.device))  # (T, C)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self._rotary())
        return self.head(self.norm_final(x))

    def forward_cached(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits [B, P, V] and the new cache, for new tokens on top of a cache.

        `ids` int64 [B, T]; `past_len` int64 [B], how many slots each row has filled;
        `logit_positions` int64 [B, P], which of the T new tokens to give logits for; `past`, per
        layer k and v [B, K, S, D]. The caller guarantees past_len + T <= S and
        past_len + T <= block_size. Rows may be padded on the right: what padding writes to the
        cache is overwritten before any later token can see it.
        """
        x = self.token_embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            new = torch.arange(ids.shape[1], device=ids.device)  # (T,)
            x = x + self.position_embedding(past_len.unsqueeze(1) + new)  # (B, T, C)
        present = []
        for block, layer_past in zip(self.blocks, past, strict=True):
            x, layer_present = block.forward_cached(x, layer_past, past_len, self._rotary())
            present.append(layer_present)
        index = logit_positions.unsqueeze(2).expand(-1, -1, x.shape[-1])  # (B, P, C)
        return self.head(self.norm_final(x.gather(1, index))), present

    def parameter_count(self) -> int:
        """Return how many numbers are trained, a tied weight counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _rotary(self) -> tuple[Tensor, Tensor] | None:
        if self.config.position == "learned":
            return None
        return self.rotary_cos, self.rotary_sin

    def _initialise(self) -> None:
        """GPT-2's scheme: N(0, 0.02), narrower where a sub-layer joins the residual stream."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                joins_residual = name.endswith(
                    ("attention.proj.weight", "feed_forward.down.weight")
                )
                shrink = (2 * self.config.n_layer) ** -0.5 if joins_residual else 1.0
                nn.init.normal_(parameter, std=0.02 * shrink)


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin [length, D/2] of RoPE (Su et al. 2021, eq. 15), computed in float64."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (D/2,)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, D/2)
    return angle.cos().float(), angle.sin().float()
