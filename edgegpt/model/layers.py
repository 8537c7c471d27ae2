"""The parts of a transformer: attention, feed-forward, norm, and the block that they make up."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cached_attention import cached_attention
from .config import GPTConfig
from .rotary import rotate

__all__ = ["Attention", "Block", "FeedForward", "SubLayer", "new_norm"]


@dataclass(frozen=True)
class SubLayer:
    """A part that reads the residual stream through a norm, with the names of both modules."""

    name: str
    norm: str

    @property
    def block(self) -> str:
        """The name of the block that contains the sub-layer; empty for the head."""
        return self.name.rpartition(".")[0]


class Attention(nn.Module):
    """Causal self-attention with one fused projection for all queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        qkv_width = (config.n_head + 2 * config.n_kv_head) * config.head_dim
        self.qkv = nn.Linear(config.n_embd, qkv_width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend within `x` [B, T, C] and to `past`, keys and values [B, K, P, D] of P tokens.

        `rotary` holds cos and sin [block_size, D/2] or is None. The keys of the past are rotated.
        """
        config = self.config
        batch, length, _ = x.shape
        start = 0 if past is None else past[0].shape[2]
        q, k, v = self.split_heads(self.qkv(x))
        if rotary is not None:
            cos, sin = (table[start : start + length] for table in rotary)  # (T, D/2)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        seen = None
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)  # (B, K, P+T, D)
            seen = q.new_ones(length, start + length, dtype=torch.bool).tril(start)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            seen,
            is_causal=seen is None,
            dropout_p=config.dropout if self.training else 0.0,
            scale=config.scale,
            enable_gqa=config.n_kv_head != config.n_head,
        )  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(batch, length, -1)  # (B, T, H * D)
        out: Tensor = self.dropout(self.proj(y))
        return out

    def forward_cached(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        past_len: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from `x` [B, T, C] to the cache `past` (k, v) [B, K, S, D] and to itself.

        Row b's tokens take the cache slots that start at past_len[b]. Returns the output and the
        new cache.
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

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, T, D], keys and values [B, K, T, D] of the `qkv` projection."""
        config = self.config
        heads = qkv.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)  # (B, H + 2K, T, D)
        q, k, v = heads.split([config.n_head, config.n_kv_head, config.n_kv_head], dim=1)
        return q, k, v

    def empty_cache(self, batch: int, slots: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, D] of zeros, in this layer's compute type."""
        shape = (batch, self.config.n_kv_head, slots, self.config.head_dim)
        return self.qkv.weight.new_zeros(shape), self.qkv.weight.new_zeros(shape)


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
        """Map [B, T, C] to [B, T, C], each token independently."""
        wide = self.up(x)  # (B, T, n_ff)
        if self.activation == "relu":
            wide = F.relu(wide)
        elif self.activation == "swiglu":
            wide = F.silu(self.gate(x)) * wide
        else:
            wide = F.gelu(wide, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        narrow: Tensor = self.dropout(self.down(wide))
        return narrow


def new_norm(config: GPTConfig) -> nn.Module:
    """Return a new normalisation module for the residual stream."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)


class Block(nn.Module):
    """One layer: normalise, attend, add; normalise, feed forward, add."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = new_norm(config)
        self.attention = Attention(config)
        self.norm_2 = new_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Map the residual stream [B, T, C] to the next one; see `Attention.forward`."""
        x = x + self.attention(self.norm_1(x), rotary, past)
        x = x + self.feed_forward(self.norm_2(x))
        return x

    def forward_cached(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        past_len: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Do the same as `forward` for new tokens on top of a cache; return the new cache, too."""
        y, present = self.attention.forward_cached(self.norm_1(x), past, past_len, rotary)
        x = x + y
        return x + self.feed_forward(self.norm_2(x)), present

    def sub_layers(self) -> tuple[SubLayer, ...]:
        """Return its sub-layers in the order of `forward`, named within the block."""
        return SubLayer("attention", "norm_1"), SubLayer("feed_forward", "norm_2")

    def writers(self) -> tuple[nn.Linear, ...]:
        """Return the modules whose outputs are added to the residual stream."""
        return self.attention.proj, self.feed_forward.down
