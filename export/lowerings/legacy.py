"""The lowering for older engines: opset 18, ScatterElements into the cache, MatMul and Softmax.

TensorRT 10.3 (JetPack 6) and later reads it, and so does ONNX Runtime before 1.25; the newest ONNX
Runtime for Python 3.10 is 1.23.
"""

from typing import Any

import torch
from onnxscript.onnx_opset import opset18

import edgegpt.model  # noqa: F401 - registers the operators named below

from .base import Lowering
from .parts import (
    attended,
    placed_heads,
    rms_norm,
    source_heads,
    source_places,
    source_rows,
    used_slots,
    visible_slots,
)

__all__ = ["LEGACY"]

op: Any = opset18  # Any: onnxscript types its operators for eager evaluation


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
    present_k = _written(past_k, k, position, n_kv_head)  # (B, K, S, D)
    present_v = _written(past_v, v, position, n_kv_head)  # (B, K, S, D)
    visible = visible_slots(op, past_k, position, window)  # (B, 1, T, S)
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
    out = op.Transpose(out, perm=[0, 2, 1, 3])  # (B, T, H, D)
    return op.Reshape(out, op.Constant(value_ints=[0, 0, -1])), present_k, present_v


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
    sizes = {"n_head": n_head, "n_kv_head": n_head}
    out = attended(op, queries, k, v, places, None, k, bias, scale=scale, softcap=0.0, **sizes)
    return source_rows(op, out, q)


def _written(past: Any, fresh: Any, position: Any, n_kv_head: int) -> Any:
    """Return the cache `past` (B, K, S, D) with `fresh` (B, K, T, D) in the slots `position`."""
    place = op.Unsqueeze(position, op.Constant(value_ints=[1, 3]))  # (B, 1, T, 1)
    place = op.Expand(place, op.Constant(value_ints=[1, n_kv_head, 1, past.shape[3]]))
    return op.ScatterElements(past, place, fresh, axis=2)


def _rms_norm(x: Any, _: Any, weight: Any, eps: float) -> Any:
    """Emit an RMSNorm over the last axis, which opset 18 has no operator for."""
    return rms_norm(op, x, x, weight, eps)


LEGACY = Lowering(
    name="legacy",
    opset=18,  # the lowest that torch.onnx writes
    ir_version=8,  # of the ONNX release that introduced opset 18
    translations={
        torch.ops.edgegpt.cached_attention.default: _cached_attention,
        torch.ops.edgegpt.source_attention.default: _source_attention,
        torch.ops.aten.rms_norm.default: _rms_norm,
    },
)
