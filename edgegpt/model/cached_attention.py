"""The interface between model and exporter: attention over a key/value cache, as one operator.

`edgegpt::cached_attention` takes the packed, untransposed projection, so that each lowering in
`edgegpt.export.lowerings` can choose its own layout and its own fused operators. The body here is
the reference in PyTorch. It has no gradient, because training uses the plain path of the model.
"""

import torch
import torch.nn.functional as F
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
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    norm_eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write new tokens into the cache, then attend from them to the whole cache.

    Args:
        qkv: float [B, T, (H + 2K) * D], queries, then keys, then values of the new tokens.
        past_k: float [B, K, S, D], keys of earlier tokens; slots past_len and later may hold any
            values.
        past_v: float [B, K, S, D], values of earlier tokens, laid out like `past_k`.
        past_len: int64 [B], filled slots of each row; past_len + T <= S.
        cos: float [positions, R], rotary table of the first 2 * R values of a head, or None for no
            rotation.
        sin: float [positions, R], rotary table, or None for no rotation.
        q_norm: weight of the RMSNorm of the queries before the rotation, float [D] for each head
            apart or [H * D] for all at once; None for no norm.
        k_norm: weight of the RMSNorm of the keys, [D] or [K * D]; None for no norm.
        bias: float [1 or B, H, T, S], added to the scores; None: nothing is.
        n_head: H, number of query heads.
        n_kv_head: K, number of key/value heads; each serves H / K query heads.
        scale: factor on the scores.
        window: how many slots a token sees, its own included; 0: all up to its own.
        softcap: c, if scores become c * tanh(score / c); 0: they stay.
        norm_eps: added to the mean square in both norms.

    Returns:
        Output [B, T, H * D], and the keys and values [B, K, S, D] with the new tokens at slots
        past_len .. past_len + T - 1. New token t of row b sees the slots up to past_len[b] + t.
    """
    batch, length, _ = qkv.shape
    slots, width = past_k.shape[2:]
    q, k, v = qkv.split([n_head * width, n_kv_head * width, n_kv_head * width], dim=2)
    q, k = _normed(q, q_norm, norm_eps), _normed(k, k_norm, norm_eps)
    q, k, v = (part.unflatten(2, (-1, width)) for part in (q, k, v))  # (B, T, heads, D)
    position = past_len[:, None] + torch.arange(length, device=qkv.device)  # (B, T)
    if cos is not None and sin is not None:
        row_cos, row_sin = cos[position][:, :, None], sin[position][:, :, None]  # (B, T, 1, R)
        q, k = rotate(q, row_cos, row_sin), rotate(k, row_cos, row_sin)

    row = torch.arange(batch, device=qkv.device)[:, None]  # (B, 1)
    present_k, present_v = past_k.clone(), past_v.clone()
    present_k[row, :, position] = k  # k is (B, T, K, D)
    present_v[row, :, position] = v

    slot, own = torch.arange(slots, device=qkv.device), position[:, :, None]
    visible = slot <= own  # (B, T, S)
    if window:
        visible = visible & (slot > own - window)
    group = n_head // n_kv_head
    keys = present_k.repeat_interleave(group, dim=1)  # (B, H, S, D)
    values = present_v.repeat_interleave(group, dim=1)  # (B, H, S, D)
    scores = (q.transpose(1, 2) @ keys.transpose(2, 3)) * scale  # (B, H, T, S)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    # Unused slots may hold NaN. They are cleared before the product because 0 * NaN is NaN.
    used = (slot <= own[:, -1])[:, None, :, None]  # (B, 1, S, 1)
    out = scores.softmax(dim=-1) @ values.masked_fill(~used, 0.0)  # (B, H, T, D)
    out = out.transpose(1, 2).reshape(batch, length, n_head * width)  # (B, T, H * D)
    return out, present_k, present_v


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return queries or keys [B, T, heads * D] after their RMSNorm, if there is one."""
    if weight is None:
        return x
    groups = x.unflatten(2, (-1, weight.shape[0]))  # (B, T, heads or 1, D or heads * D)
    return F.rms_norm(groups, weight.shape, weight, eps).flatten(2)


@cached_attention.register_fake
def _(
    qkv: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    past_len: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    norm_eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the right shapes, for torch.export."""
    batch, length, _ = qkv.shape
    out = qkv.new_empty(batch, length, n_head * past_k.shape[3])
    return out, torch.empty_like(past_k), torch.empty_like(past_v)
