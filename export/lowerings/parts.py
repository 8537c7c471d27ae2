"""Parts that the lowerings to plain ONNX share. `op` is onnxscript's object for any opset."""

from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["in_type_of", "placed_heads", "range_of", "scalar"]


def placed_heads(
    op: Any,
    qkv: Any,
    past_k: Any,
    past_len: Any,
    cos: Any,
    sin: Any,
    *,
    n_head: int,
    n_kv_head: int,
) -> tuple[Any, Any, Any, Any]:
    """Return queries (B, H, T, D), keys and values (B, K, T, D), and the cache slots (B, T).

    Queries and keys are rotated if there are tables. Arguments are those of `cached_attention`.
    """
    q, k, v = _heads(op, qkv, n_head, n_kv_head)
    position = op.Add(  # (B, T)
        op.Unsqueeze(past_len, op.Constant(value_ints=[1])),
        range_of(op, op.Shape(qkv, start=1, end=2)),
    )
    if cos is not None:
        cos, sin = in_type_of(op, cos, past_k), in_type_of(op, sin, past_k)
        q, k = _rotated(op, q, cos, sin, position), _rotated(op, k, cos, sin, position)
    return q, k, v, position


def _heads(op: Any, qkv: Any, n_head: int, n_kv_head: int) -> tuple[Any, Any, Any]:
    """Return queries (B, H, T, D), keys and values (B, K, T, D) of the projection (B, T, ...)."""
    # 0 copies the size of that axis; -1 takes the remaining elements, D.
    split = op.Reshape(qkv, op.Constant(value_ints=[0, 0, n_head + 2 * n_kv_head, -1]))
    heads = op.Transpose(split, perm=[0, 2, 1, 3])  # (B, H + 2K, T, D)
    ends = (0, n_head, n_head + n_kv_head, n_head + 2 * n_kv_head)
    q, k, v = (_between(op, heads, *pair) for pair in pairwise(ends))
    return q, k, v


def _between(op: Any, heads: Any, first: int, end: int) -> Any:
    """Return heads first .. end - 1 of (B, heads, T, D)."""
    start, stop, axis = [first], [end], [1]
    return op.Slice(
        heads,
        op.Constant(value_ints=start),
        op.Constant(value_ints=stop),
        op.Constant(value_ints=axis),
    )


def range_of(op: Any, size: Any) -> Any:
    """Return 0 .. size - 1 as int64 [size]; `size` is int64 [1]."""
    end = op.Squeeze(size, op.Constant(value_ints=[0]))
    return op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1))


def _rotated(op: Any, x: Any, cos: Any, sin: Any, position: Any) -> Any:
    """Rotate (B, heads, T, D) by the rows `position` (B, T) of the tables [positions, D/2]."""
    axis = op.Constant(value_ints=[1])
    row_cos = op.Unsqueeze(op.Gather(cos, position), axis)  # (B, 1, T, D/2)
    row_sin = op.Unsqueeze(op.Gather(sin, position), axis)
    first, second = op.Split(x, num_outputs=2, axis=-1)
    return op.Concat(
        op.Sub(op.Mul(first, row_cos), op.Mul(second, row_sin)),
        op.Add(op.Mul(second, row_cos), op.Mul(first, row_sin)),
        axis=-1,
    )


def in_type_of(op: Any, table: Any, like: Any) -> Any:
    """Return `table` in the type of `like`: the type varies if some layers stay in float32."""
    return table if table.dtype == like.dtype else op.Cast(table, to=like.dtype)


def scalar(op: Any, value: float, like: Any) -> Any:
    """Return a constant without axes, of the data type of `like`."""
    return op.Constant(value=ir.tensor(np.array(value, dtype=like.dtype.numpy()), like.dtype))
