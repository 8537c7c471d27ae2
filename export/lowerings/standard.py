"""The portable lowering: opset 24, TensorScatter into the cache and Attention with a mask.

ONNX Runtime 1.25 and later, TensorRT 10.15 and later, and browsers read it. The mask is an explicit
boolean tensor. The shorter form, `nonpad_kv_seqlen` with `is_causal`, does not work: ONNX Runtime
1.25 to 1.27 computes it wrongly, and TensorRT silently drops it. Attention with a softcap is made
of smaller operators, because TensorRT refuses the attribute.
"""

from typing import Any

import torch
from onnxscript.onnx_opset import opset24

import edgegpt.model  # noqa: F401 - registers the operators named below

from .base import Lowering
from .parts import (
    attended,
    masked,
    placed_heads,
    source_heads,
    source_places,
    source_rows,
    used_slots,
    visible_slots,
)

__all__ = ["STANDARD"]

op: Any = opset24  # Any: onnxscript types its operators for eager evaluation


def _cached_attention(
    qkv: Any,
    past_k: Any,
    past_v: Any,
    past_len: Any,
    cos: Any = None,
    sin: Any = None,
    q_norm: Any = None,
    k_norm: Any = None,
    bias: Any = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    norm_eps: float = 1e-5,
) -> tuple[Any, Any, Any]:
    """Emit one layer's attention; arguments and results are those of `cached_attention`."""
    sizes = {"n_head": n_head, "n_kv_head": n_kv_head}
    q, k, v, position = placed_heads(
        op, qkv, past_k, past_len, (cos, sin), (q_norm, k_norm), norm_eps=norm_eps, **sizes
    )
    present_k = op.TensorScatter(past_k, k, past_len, axis=-2)  # (B, K, S, D)
    present_v = op.TensorScatter(past_v, v, past_len, axis=-2)  # (B, K, S, D)
    visible = visible_slots(op, past_k, position, window)  # (B, 1, T, S)
    if softcap:
        used = used_slots(op, qkv, past_k, past_len)  # (B, 1, S, 1)
        out = attended(
            op,
            q,
            present_k,
            present_v,
            visible,
            used,
            past_k,
            bias,
            scale=scale,
            softcap=softcap,
            **sizes,
        )
    else:
        mask = masked(op, bias, visible, past_k)  # (B, 1 or H, T, S)
        out = op.Attention(q, present_k, present_v, mask, scale=scale)[0]  # (B, H, T, D)
    out = op.Transpose(out, perm=[0, 2, 1, 3])  # (B, T, H, D)
    out = op.Reshape(out, op.Constant(value_ints=[0, 0, -1]))  # (B, T, H * D)
    return out, present_k, present_v


def _source_attention(
    q: Any,
    k: Any,
    v: Any,
    source_len: Any,
    bias: Any = None,
    *,
    n_head: int,
    scale: float,
) -> Any:
    """Emit attention over sources; arguments and result are those of `source_attention`."""
    queries = source_heads(op, q, k, n_head)  # (G, H, F * T, D)
    places = source_places(op, k, source_len)  # (G, 1, 1, N)
    if bias is None:  # ONNX Runtime wants the axis of the queries in full
        sources, length = op.Shape(k, start=0, end=1), op.Shape(k, start=2, end=3)
        rows = op.Shape(queries, start=2, end=3)
        full = op.Concat(sources, op.Constant(value_ints=[1]), rows, length, axis=0)
        mask = op.Expand(places, full)  # (G, 1, F * T, N)
    else:
        mask = masked(op, bias, places, k)  # (G, H, T, N)
    return source_rows(op, op.Attention(queries, k, v, mask, scale=scale)[0], q)


STANDARD = Lowering(
    name="standard",
    opset=24,
    ir_version=10,  # onnx's default is too new for ONNX Runtime 1.31
    translations={
        torch.ops.edgegpt.cached_attention.default: _cached_attention,
        torch.ops.edgegpt.source_attention.default: _source_attention,
    },
)
