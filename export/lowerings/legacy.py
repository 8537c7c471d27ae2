"""The lowering for older engines: opset 18, ScatterElements into the cache, MatMul and Softmax.

TensorRT 10.3 (JetPack 6) and later reads it, and so does ONNX Runtime before 1.25; the newest ONNX
Runtime for Python 3.10 is 1.23. Query heads that share a key/value head are laid out one after
another, as if they were more tokens, so that keys and values need not be repeated.
"""

from typing import Any

import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset18

import edgegpt.model.cached_attention  # noqa: F401 - registers the operator named below

from .base import Lowering
from .parts import placed_heads, range_of, scalar

__all__ = ["LEGACY"]

op: Any = opset18  # Any: onnxscript types its operators for eager evaluation


def _cached_attention(
    qkv: Any,
    past_k: Any,
    past_v: Any,
    past_len: Any,
    cos: Any = None,
    sin: Any = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
) -> tuple[Any, Any, Any]:
    """Emit one layer's attention; arguments and results are those of `cached_attention`."""
    q, k, v, position = placed_heads(
        op, qkv, past_k, past_len, cos, sin, n_head=n_head, n_kv_head=n_kv_head
    )
    present_k = _written(past_k, k, position, n_kv_head)  # (B, K, S, D)
    present_v = _written(past_v, v, position, n_kv_head)  # (B, K, S, D)
    slots = range_of(op, op.Shape(past_k, start=2, end=3))  # (S)
    own = op.Unsqueeze(position, op.Constant(value_ints=[1, 3]))  # (B, 1, T, 1)
    visible = op.LessOrEqual(slots, own)  # (B, 1, T, S)
    end = op.Unsqueeze(
        op.Add(past_len, op.Shape(qkv, start=1, end=2)), op.Constant(value_ints=[1, 2, 3])
    )  # (B, 1, 1, 1)
    used = op.Less(op.Unsqueeze(slots, op.Constant(value_ints=[1])), end)  # (B, 1, S, 1)

    # 0 copies the size of that axis; -1 takes the remaining elements.
    grouped = op.Constant(value_ints=[0, n_kv_head, -1, 0])  # (B, K, H / K * T, ...)
    single = op.Constant(value_ints=[0, n_head, -1, 0])  # (B, H, T, ...)
    q = op.Reshape(op.Mul(q, scalar(op, scale, past_k)), grouped)
    scores = op.MatMul(q, op.Transpose(present_k, perm=[0, 1, 3, 2]))  # (B, K, H / K * T, S)
    scores = op.Reshape(scores, single)  # (B, H, T, S)
    scores = op.Where(visible, scores, scalar(op, float("-inf"), past_k))
    weights = op.Reshape(_softmax(scores, past_k), grouped)  # (B, K, H / K * T, S)
    # Unused slots may hold NaN. They are cleared before the product because 0 * NaN is NaN.
    values = op.Where(used, present_v, scalar(op, 0.0, past_k))  # (B, K, S, D)
    out = op.Reshape(op.MatMul(weights, values), single)  # (B, H, T, D)
    out = op.Transpose(out, perm=[0, 2, 1, 3])  # (B, T, H, D)
    return op.Reshape(out, op.Constant(value_ints=[0, 0, -1])), present_k, present_v


def _softmax(scores: Any, like: Any) -> Any:
    """Return the softmax of `scores` in the type of `like`, computed in float32."""
    if like.dtype == ir.DataType.FLOAT:
        return op.Softmax(scores, axis=-1)
    wide = op.Softmax(op.Cast(scores, to=ir.DataType.FLOAT), axis=-1)
    return op.Cast(wide, to=like.dtype)


def _written(past: Any, fresh: Any, position: Any, n_kv_head: int) -> Any:
    """Return the cache `past` (B, K, S, D) with `fresh` (B, K, T, D) in the slots `position`."""
    place = op.Unsqueeze(position, op.Constant(value_ints=[1, 3]))  # (B, 1, T, 1)
    place = op.Expand(place, op.Constant(value_ints=[1, n_kv_head, 1, past.shape[3]]))
    return op.ScatterElements(past, place, fresh, axis=2)


LEGACY = Lowering(
    name="legacy",
    opset=18,  # the lowest that torch.onnx writes
    ir_version=8,  # of the ONNX release that introduced opset 18
    translations={torch.ops.edgegpt.cached_attention.default: _cached_attention},
)
