"""The interface between model and exporter: attention over a key/value cache, as one operator.

`edgegpt::cached_attention` takes the packed, untransposed projection, so that each lowering in
`edgegpt.export.lowerings` can choose its own layout and its own fused operators. The body here is
the reference in PyTorch. It has no gradient, because training uses the plain path of the model.
"""

import torch
from torch import Tensor

from .rotary import rotate

__all__ = ["cached_attention"]


@torch.library.custom_op("edgegpt::cached_attention", mutates_args=())
def cached_attention(
    qkv: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    past_len: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write new tokens into the cache, then attend from them to the whole cache.

    Args:
        qkv: float [B, T, (H + 2K) * D], queries, then keys, then values of the new tokens.
        past_k: float [B, K, S, D], keys of earlier tokens; slots past_len and later may hold any
            values.
        past_v: float [B, K, S, D], values of earlier tokens, laid out like `past_k`.
        past_len: int64 [B], filled slots of each row; past_len + T <= S.
        cos: float [positions, D/2], rotary table, or None for no rotation.
        sin: float [positions, D/2], rotary table, or None for no rotation.
        n_head: H, number of query heads.
        n_kv_head: K, number of key/value heads; each serves H / K query heads.
        scale: factor on the scores.

    Returns:
        Output [B, T, H * D], and the keys and values [B, K, S, D] with the new tokens at slots
        past_len .. past_len + T - 1. New token t of row b sees the slots up to past_len[b] + t.
    """
    batch, length, _ = qkv.shape
    slots, width = past_k.shape[2:]
    q, k, v = qkv.view(batch, length, -1, width).split([n_head, n_kv_head, n_kv_head], dim=2)
    position = past_len[:, None] + torch.arange(length, device=qkv.device)  # (B, T)
    if cos is not None and sin is not None:
        row_cos, row_sin = cos[position][:, :, None], sin[position][:, :, None]  # (B, T, 1, D/2)
        q, k = rotate(q, row_cos, row_sin), rotate(k, row_cos, row_sin)

    row = torch.arange(batch, device=qkv.device)[:, None]  # (B, 1)
    present_k, present_v = past_k.clone(), past_v.clone()
    present_k[row, :, position] = k  # k is (B, T, K, D)
    present_v[row, :, position] = v

    visible = torch.arange(slots, device=qkv.device) <= position[:, :, None]  # (B, T, S)
    group = n_head // n_kv_head
    keys = present_k.repeat_interleave(group, dim=1)  # (B, H, S, D)
    values = present_v.repeat_interleave(group, dim=1)  # (B, H, S, D)
    scores = (q.transpose(1, 2) @ keys.transpose(2, 3)) * scale  # (B, H, T, S)
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    # Unused slots may hold NaN. They are cleared before the product because 0 * NaN is NaN.
    used = visible[:, -1][:, None, :, None]  # (B, 1, S, 1)
    out = scores.softmax(dim=-1) @ values.masked_fill(~used, 0.0)  # (B, H, T, D)
    out = out.transpose(1, 2).reshape(batch, length, n_head * width)  # (B, T, H * D)
    return out, present_k, present_v


@cached_attention.register_fake
def _(
    qkv: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    past_len: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the right shapes, for torch.export."""
    batch, length, _ = qkv.shape
    out = qkv.new_empty(batch, length, n_head * past_k.shape[3])
    return out, torch.empty_like(past_k), torch.empty_like(past_v)
