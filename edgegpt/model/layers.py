"""The parts of a transformer: attention, feed-forward, norm, and the block that they make up."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cached_attention import cached_attention
from .config import GPTConfig, LayerKind
from .rotary import rotate

__all__ = ["Attention", "Block", "Cache", "FeedForward", "Rotary", "SubLayer", "new_norm"]

Rotary = tuple[Tensor, Tensor] | None  # cos and sin [block_size, R] of a layer, or no rotation
Cache = tuple[Tensor, Tensor]  # keys and values [B, K, slots, D] of a layer


@dataclass(frozen=True)
class SubLayer:
    """A part that reads the residual stream, and the names of the norms before and after it."""

    name: str
    norm: str | None
    norm_out: str | None = None

    def within(self, block: str) -> "SubLayer":
        """Return the same sub-layer, with names that begin with the block's."""
        norms = (name and f"{block}.{name}" for name in (self.norm, self.norm_out))
        return SubLayer(f"{block}.{self.name}", *norms)

    @property
    def block(self) -> str:
        """The name of the block that contains the sub-layer; empty for the head."""
        return self.name.rpartition(".")[0]


class Attention(nn.Module):
    """Causal self-attention with one fused projection for all queries, keys and values."""

    def __init__(self, config: GPTConfig, kind: LayerKind) -> None:
        super().__init__()
        self.config, self.kind = config, kind
        width, heads, kv_heads = config.head_dim, config.n_head, config.n_kv_head
        self.qkv = nn.Linear(config.n_embd, (heads + 2 * kv_heads) * width, bias=config.qkv_bias)
        if config.qk_norm != "none":
            full = config.qk_norm == "full"
            self.q_norm = nn.RMSNorm(heads * width if full else width, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(kv_heads * width if full else width, eps=config.norm_eps)
        self.proj = nn.Linear(heads * width, config.n_embd, bias=config.proj_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotary: Rotary, past: Cache | None = None) -> Tensor:
        """Attend within `x` [B, T, C], and to `past`, the keys and values of P earlier tokens."""
        q, k, v = self.split_heads(self.qkv(x))
        begin = 0 if past is None else past[0].shape[2]  # P
        if rotary is not None:
            cos, sin = (table[begin : begin + x.shape[1]] for table in rotary)  # (T, R)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)  # (B, K, P+T, D)
        y = self._attend(q, k, v)  # (B, H, T, D)
        out: Tensor = self.dropout(self.proj(y.transpose(1, 2).flatten(2)))  # (B, T, C)
        return out

    def forward_cached(
        self, x: Tensor, past: Cache, past_len: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Cache]:
        """Attend from `x` [B, T, C] to the cache `past` (k, v) [B, K, S, D] and to itself.

        Row b's tokens take the cache slots that start at past_len[b]. Returns the output and the
        new cache.
        """
        config = self.config
        cos, sin = (None, None) if rotary is None else rotary
        has_norms = config.qk_norm != "none"
        y, present_k, present_v = cached_attention(
            self.qkv(x),
            *past,
            past_len,
            cos,
            sin,
            self.q_norm.weight if has_norms else None,
            self.k_norm.weight if has_norms else None,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            scale=config.attention_scale,
            window=self.kind.window,
            softcap=config.attention_softcap,
            norm_eps=config.norm_eps,
        )
        return self.proj(y), (present_k, present_v)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, H, T, D], keys and values [B, K, T, D], before the rotation.

        `qkv` is the projection [B, T, (H + 2K) * D].
        """
        config, width = self.config, self.config.head_dim
        q, k, v = qkv.split([n * width for n in (config.n_head, *[config.n_kv_head] * 2)], dim=-1)
        if config.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in (q, k, v))
        if config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Return keys and values [B, K, S, D] of zeros, in this layer's compute type."""
        shape = (batch, self.config.n_kv_head, slots, self.config.head_dim)
        return self.qkv.weight.new_zeros(shape), self.qkv.weight.new_zeros(shape)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention [B, H, T, D] of the last T of P + T tokens.

        `q` is [B, H, T, D]; `k` and `v` are [B, K, P + T, D].
        """
        config, (new, total) = self.config, (q.shape[2], k.shape[2])
        dropout = config.dropout if self.training else 0.0
        grouped = config.n_kv_head != config.n_head
        scale = config.attention_scale
        if config.attention_softcap:
            return self._attend_capped(q, k, v, dropout)
        mask = None if new == total and not self.kind.window else self._visible(q, total)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=grouped,
        )

    def _attend_capped(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attend with scores that become c * tanh(score / c), as in Gemma 2 (2024)."""
        cap, group = self.config.attention_softcap, self.config.n_head // self.config.n_kv_head
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(2, 3) * self.config.attention_scale  # (B, H, T, P + T)
        scores = cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~self._visible(q, k.shape[2]), float("-inf"))
        return F.dropout(scores.softmax(dim=-1), dropout) @ v

    def _visible(self, q: Tensor, total: int) -> Tensor:
        """Return bool [T, total]: which of all tokens each of the last T ones sees."""
        token = torch.arange(total, device=q.device)
        own = token[total - q.shape[2] :, None]  # (T, 1)
        visible = token <= own
        return visible & (token > own - self.kind.window) if self.kind.window else visible


class FeedForward(nn.Module):
    """Widen, apply the non-linearity, narrow; or gate the widened input (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        self.up = nn.Linear(config.n_embd, config.n_ff, bias=config.ff_bias)
        if config.gated:
            self.gate = nn.Linear(config.n_embd, config.n_ff, bias=config.ff_bias)
        self.down = nn.Linear(config.n_ff, config.n_embd, bias=config.ff_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C], each token independently."""
        wide = self.up(x)  # (B, T, n_ff)
        wide = self._activated(self.gate(x)) * wide if self.gated else self._activated(wide)
        narrow: Tensor = self.dropout(self.down(wide))
        return narrow

    def _activated(self, x: Tensor) -> Tensor:
        if self.activation == "silu":
            return F.silu(x)
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "relu2":  # So et al. 2021, "Primer"
            return F.relu(x) ** 2
        return F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")


def new_norm(config: GPTConfig) -> nn.Module:
    """Return a new normalisation module for the residual stream."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.norm_bias)


class Block(nn.Module):
    """One layer: attention and feed-forward, each with its norms, added to the stream."""

    def __init__(self, config: GPTConfig, kind: LayerKind) -> None:
        super().__init__()
        self.parallel, self.scale = config.parallel, config.residual_scale
        reads, writes = config.norm_placement != "output", config.norm_placement != "pre"
        self.norm_1 = new_norm(config) if reads else nn.Identity()
        self.attention = Attention(config, kind)
        self.norm_1_out = new_norm(config) if writes else nn.Identity()
        self.norm_2 = new_norm(config) if reads else nn.Identity()
        self.feed_forward = FeedForward(config)
        self.norm_2_out = new_norm(config) if writes else nn.Identity()

    def forward(self, x: Tensor, rotary: Rotary, past: Cache | None = None) -> Tensor:
        """Map the residual stream [B, T, C] to the next one."""
        return self._with_feed_forward(x, self.attention(self.norm_1(x), rotary, past))

    def forward_cached(
        self, x: Tensor, past: Cache, past_len: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Cache]:
        """Do the same as `forward` for new tokens on top of a cache; return the new cache, too."""
        y, present = self.attention.forward_cached(self.norm_1(x), past, past_len, rotary)
        return self._with_feed_forward(x, y), present

    def _with_feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the stream after the block, from the one before it and the attention's output."""
        y = x + self._scaled(self.norm_1_out(attended))
        read = x if self.parallel else y
        return y + self._scaled(self.norm_2_out(self.feed_forward(self.norm_2(read))))

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1.0 else x * self.scale

    def sub_layers(self) -> tuple[SubLayer, ...]:
        """Return its sub-layers in the order of `forward`, named within the block."""
        return self._sub_layer("attention", "norm_1"), self._sub_layer("feed_forward", "norm_2")

    def _sub_layer(self, name: str, norm: str) -> SubLayer:
        norms = (norm, f"{norm}_out")
        before, after = (
            None if isinstance(self.get_submodule(each), nn.Identity) else each for each in norms
        )
        return SubLayer(name, before, after)

    def writers(self) -> tuple[nn.Module, ...]:
        """Return the modules whose outputs are added to the residual stream."""
        pairs = ((self.norm_1_out, self.attention.proj), (self.norm_2_out, self.feed_forward.down))
        return tuple(own if isinstance(norm, nn.Identity) else norm for norm, own in pairs)
