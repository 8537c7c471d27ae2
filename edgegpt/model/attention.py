"""Attention: of a text to itself, and of a text to the source that it is made from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cached_attention import cached_attention
from .config import GPTConfig, LayerKind
from .positions import distance_buckets
from .rotary import rotate
from .source_attention import source_attention

__all__ = ["Attention", "Cache", "Rotary", "SourceAttention"]

Rotary = tuple[Tensor, Tensor] | None  # cos and sin [block_size, R] of a layer, or no rotation
Cache = tuple[Tensor, Tensor]  # keys and values [B, K, slots, D] of a layer


class Attention(nn.Module):
    """Self-attention with one fused projection for all queries, keys and values.

    A token sees itself and the tokens before it, or, if it is not `causal`, the whole text.
    """

    def __init__(self, config: GPTConfig, kind: LayerKind, *, causal: bool = True) -> None:
        super().__init__()
        self.config, self.kind, self.causal = config, kind, causal
        width, heads, kv_heads = config.head_dim, config.n_head, config.n_kv_head
        self.qkv = nn.Linear(config.n_embd, (heads + 2 * kv_heads) * width, bias=config.qkv_bias)
        if config.qk_norm != "none":
            full = config.qk_norm == "full"
            self.q_norm = nn.RMSNorm(heads * width if full else width, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(kv_heads * width if full else width, eps=config.norm_eps)
        if config.position == "relative":
            self.relative = nn.Embedding(config.relative_buckets, heads)
            buckets = distance_buckets(
                config.block_size, config.relative_buckets, config.relative_distance, causal=causal
            )
            self.register_buffer("bucket_of_distance", buckets, persistent=False)
        self.proj = nn.Linear(heads * width, config.n_embd, bias=config.proj_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        past: Cache | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Attend within `x` [B, T, C], and to `past`, the keys and values of P earlier tokens.

        `lengths` int64 [B] tells how many tokens of each row count; None: all. They are the first.
        """
        q, k, v = self.split_heads(self.qkv(x))
        begin = 0 if past is None else past[0].shape[2]  # P
        if rotary is not None:
            cos, sin = (table[begin : begin + x.shape[1]] for table in rotary)  # (T, R)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)  # (B, K, P+T, D)
        y = self._attend(q, k, v, lengths)  # (B, H, T, D)
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
        position = past_len.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)  # (B, T)
        y, present_k, present_v = cached_attention(
            self.qkv(x),
            *past,
            past_len,
            cos,
            sin,
            self.q_norm.weight if has_norms else None,
            self.k_norm.weight if has_norms else None,
            self._bias(position, past[0].shape[2]),
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            scale=config.attention_scale,
            window=self.kind.window,
            softcap=config.attention_softcap,
            norm_eps=config.norm_eps,
        )
        return self.proj(y), (present_k, present_v)

    def forward_source(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Do the same as `forward` for texts `x` [G, N, C] that are seen as a whole.

        `lengths` int64 [G] tells how many tokens of each count.
        """
        q, k, v = self.split_heads(self.qkv(x))
        position = torch.arange(x.shape[1], device=x.device)[None]  # (1, N)
        y = source_attention(
            q.transpose(1, 2).flatten(2),  # (G, N, H * D)
            k,
            v,
            lengths,
            self._bias(position, x.shape[1]),
            n_head=self.config.n_head,
            scale=self.config.attention_scale,
        )
        out: Tensor = self.proj(y)
        return out

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

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the attention [B, H, T, D] of the last T of P + T tokens.

        `q` is [B, H, T, D]; `k` and `v` are [B, K, P + T, D].
        """
        config, (new, total) = self.config, (q.shape[2], k.shape[2])
        dropout = config.dropout if self.training else 0.0
        if config.attention_softcap:
            return self._attend_capped(q, k, v, dropout)
        simple = new == total and lengths is None and config.position != "relative"
        causal = simple and self.causal and not self.kind.window
        mask = None if causal or (simple and not self.causal) else self._mask(q, total, lengths)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=config.attention_scale,
            enable_gqa=config.n_kv_head != config.n_head,
        )

    def _attend_capped(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attend with scores that become c * tanh(score / c), as in Gemma 2 (2024)."""
        cap, group = self.config.attention_softcap, self.config.n_head // self.config.n_kv_head
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(2, 3) * self.config.attention_scale  # (B, H, T, P + T)
        scores = cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~self._visible(q, k.shape[2]), float("-inf"))
        return F.dropout(scores.softmax(dim=-1), dropout) @ v

    def _mask(self, q: Tensor, total: int, lengths: Tensor | None) -> Tensor:
        """Return what is added to the scores [B, H, T, total], or bool: which of them count."""
        visible = self._visible(q, total)  # (T, total)
        if lengths is not None:
            token = torch.arange(total, device=q.device)
            visible = visible & (token < lengths[:, None, None, None])  # (B, 1, T, total)
        position = torch.arange(total - q.shape[2], total, device=q.device)[None]  # (1, T)
        bias = self._bias(position, total)
        return visible if bias is None else bias.masked_fill(~visible, float("-inf"))

    def _visible(self, q: Tensor, total: int) -> Tensor:
        """Return bool [T, total]: which of all tokens each of the last T ones sees."""
        token = torch.arange(total, device=q.device)
        own = token[total - q.shape[2] :, None]  # (T, 1)
        visible = token <= own if self.causal else (token >= 0).expand(len(own), total)
        return visible & (token > own - self.kind.window) if self.kind.window else visible

    def _bias(self, position: Tensor, total: int) -> Tensor | None:
        """Return what distances add to the scores [B, H, T, total]; None: nothing.

        `position` int64 [B, T] is that of each query; those of the keys are 0 to total - 1.
        """
        config = self.config
        if config.position != "relative":
            return None
        span = config.block_size
        by_distance = self.relative(self.bucket_of_distance)  # (2 * span - 1, H)
        distance = torch.arange(total, device=position.device) - position.unsqueeze(2)
        # Slots beyond the block are never visible.
        place = (distance + span - 1).clamp(max=2 * span - 2)  # (B, T, total)
        bias = F.embedding(place, by_distance).permute(0, 3, 1, 2)  # (B, H, T, total)
        # Layers may share a table, and not all of them its type.
        return bias.to(self.qkv.weight.dtype)


class SourceAttention(nn.Module):
    """Attention from a text to a source (Vaswani et al. 2017, section 3.2.3).

    Keys and values of a source are the same for every token that is made from it, so they are
    computed once.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.n_head * config.head_dim
        self.q = nn.Linear(config.n_embd, inner, bias=config.qkv_bias)
        self.kv = nn.Linear(config.n_embd, 2 * inner, bias=config.qkv_bias)
        self.proj = nn.Linear(inner, config.n_embd, bias=config.proj_bias)
        self.dropout = nn.Dropout(config.dropout)

    def keys_values(self, source: Tensor) -> Cache:
        """Return keys and values [G, H, N, D] of what an encoder returned, [G, N, C]."""
        heads = self.kv(source).unflatten(-1, (2, self.config.n_head, -1))  # (G, N, 2, H, D)
        k, v = heads.permute(2, 0, 3, 1, 4)  # (G, H, N, D) each
        return k, v

    def forward(self, x: Tensor, cache: Cache, lengths: Tensor) -> Tensor:
        """Attend from `x` [G, T, C] to the first `lengths` [G] places of `keys_values`."""
        q = self.q(x).unflatten(-1, (self.config.n_head, -1)).transpose(1, 2)  # (G, H, T, D)
        place = torch.arange(cache[0].shape[2], device=x.device)
        y = F.scaled_dot_product_attention(
            q,
            *cache,
            place < lengths[:, None, None, None],  # (G, 1, 1, N)
            dropout_p=self.config.dropout if self.training else 0.0,
            scale=self.config.attention_scale,
        )
        out: Tensor = self.dropout(self.proj(y.transpose(1, 2).flatten(2)))  # (G, T, C)
        return out

    def forward_cached(self, x: Tensor, cache: Cache, lengths: Tensor) -> Tensor:
        """Do the same as `forward` for rows `x` [G * F, T, C]; those of one source lie together."""
        config = self.config
        y = source_attention(
            self.q(x), *cache, lengths, n_head=config.n_head, scale=config.attention_scale
        )
        out: Tensor = self.proj(y)
        return out
