"""Parts that the lowerings to plain ONNX share. `op` is onnxscript's object for any opset."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = [
    "attended",
    "between",
    "in_type_of",
    "masked",
    "normed",
    "placed_heads",
    "range_of",
    "rms_norm",
    "scalar",
    "source_heads",
    "source_places",
    "source_rows",
    "used_slots",
    "visible_slots",
]

RMS_NORM_OPSET = 23  # the first with RMSNormalization


def placed_heads(
    op: Any,
    qkv: Any,
    past_k: Any,
    past_len: Any,
    tables: tuple[Any, Any],
    norms: tuple[Any, Any],
    *,
    n_head: int,
    n_kv_head: int,
    norm_eps: float,
) -> tuple[Any, Any, Any, Any]:
    """Return queries (B, H, T, D), keys and values (B, K, T, D), and the cache slots (B, T).

    Queries and keys are normalised and rotated if there are weights and tables. `tables` are cos
    and sin, `norms` the weights of queries and keys; other arguments are `cached_attention`'s.
    """
    counts = (n_head, n_kv_head, n_kv_head)
    parts = normed(op, qkv, past_k, counts, norms, norm_eps)
    q, k, v = (_heads(op, part, n) for part, n in zip(parts, counts, strict=True))
    position = op.Add(  # (B, T)
        op.Unsqueeze(past_len, op.Constant(value_ints=[1])),
        range_of(op, op.Shape(qkv, start=1, end=2)),
    )
    cos, sin = tables
    if cos is not None:
        sizes = {"angles": cos.shape[1], "width": past_k.shape[3]}
        cos, sin = in_type_of(op, cos, past_k), in_type_of(op, sin, past_k)
        q, k = (_rotated(op, part, cos, sin, position, **sizes) for part in (q, k))
    return q, k, v, position


def normed(
    op: Any,
    qkv: Any,
    past_k: Any,
    counts: tuple[int, int, int],
    norms: tuple[Any, Any],
    norm_eps: float,
) -> tuple[Any, Any, Any]:
    """Return the queries, keys and values (B, T, heads * D), the first two after their norms.

    `counts` are the numbers of heads of each; a norm's weight is [D], [heads * D] or None.
    """
    width, ends = past_k.shape[3], (0, *np.cumsum(counts).tolist())
    parts = (between(op, qkv, a * width, b * width, axis=2) for a, b in pairwise(ends))
    q, k, v = (
        _normed(op, part, past_k, count * width, weight, norm_eps)
        for part, count, weight in zip(parts, counts, (*norms, None), strict=True)
    )
    return q, k, v


def _normed(op: Any, x: Any, like: Any, size: int, weight: Any, eps: float) -> Any:
    """Return queries or keys (B, T, size) after RMSNorm with a weight of [D] or [size]."""
    if weight is None:
        return x
    width = weight.shape[0]
    if width < size:
        x = op.Reshape(x, op.Constant(value_ints=[0, 0, -1, width]))  # (B, T, heads, D)
        return op.Reshape(rms_norm(op, x, like, weight, eps), op.Constant(value_ints=[0, 0, -1]))
    return rms_norm(op, x, like, weight, eps)


def rms_norm(op: Any, x: Any, like: Any, weight: Any, eps: float) -> Any:
    """Return RMSNorm (Zhang and Sennrich 2019) of `x` over its last axis, summed in float32.

    `x` is of the data type of `like`.
    """
    weight = in_type_of(op, weight, like)
    if op.version >= RMS_NORM_OPSET:
        return op.RMSNormalization(x, weight, axis=-1, epsilon=eps)
    wide = x if like.dtype == ir.DataType.FLOAT else op.Cast(x, to=ir.DataType.FLOAT)
    mean = op.ReduceMean(op.Mul(wide, wide), op.Constant(value_ints=[-1]), keepdims=1)
    root = op.Sqrt(op.Add(mean, op.Constant(value_float=eps)))
    scaled = op.Div(wide, root)
    return op.Mul(scaled if wide is x else op.Cast(scaled, to=like.dtype), weight)


def _heads(op: Any, x: Any, count: int) -> Any:
    """Return (B, heads, T, D) of (B, T, heads * D)."""
    # 0 copies the size of that axis; -1 takes the remaining elements, D.
    split = op.Reshape(x, op.Constant(value_ints=[0, 0, count, -1]))
    return op.Transpose(split, perm=[0, 2, 1, 3])


def between(op: Any, x: Any, first: int, end: int, axis: int) -> Any:
    """Return the indices first .. end - 1 of an axis of `x`."""
    start, stop, axes = (op.Constant(value_ints=[value]) for value in (first, end, axis))
    return op.Slice(x, start, stop, axes)


def range_of(op: Any, size: Any) -> Any:
    """Return 0 .. size - 1 as int64 [size]; `size` is int64 [1]."""
    end = op.Squeeze(size, op.Constant(value_ints=[0]))
    return op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1))


def visible_slots(op: Any, past_k: Any, position: Any, window: int) -> Any:
    """Return bool (B, 1, T, S): whether the token at each `position` (B, T) sees a slot.

    It sees its own slot and those before, or the last `window` of them if `window` is not 0.
    """
    slots = range_of(op, op.Shape(past_k, start=2, end=3))  # (S)
    own = op.Unsqueeze(position, op.Constant(value_ints=[1, 3]))  # (B, 1, T, 1)
    visible = op.LessOrEqual(slots, own)
    if not window:
        return visible
    return op.And(visible, op.Greater(slots, op.Sub(own, op.Constant(value_int=window))))


def used_slots(op: Any, qkv: Any, past_k: Any, past_len: Any) -> Any:
    """Return bool (B, 1, S, 1): whether a slot is filled after the step."""
    end = op.Unsqueeze(
        op.Add(past_len, op.Shape(qkv, start=1, end=2)), op.Constant(value_ints=[1, 2, 3])
    )  # (B, 1, 1, 1)
    slots = range_of(op, op.Shape(past_k, start=2, end=3))  # (S)
    return op.Less(op.Unsqueeze(slots, op.Constant(value_ints=[1])), end)


def attended(
    op: Any,
    q: Any,
    keys: Any,
    values: Any,
    visible: Any,
    used: Any,
    like: Any,
    bias: Any = None,
    *,
    n_head: int,
    n_kv_head: int,
    scale: float,
    softcap: float,
) -> Any:
    """Return the attention (B, H, T, D) of queries to the slots that are `visible` (B, 1, T, S).

    Slots (B, K, S, D) of keys and values that are not `used` (B, 1, S, 1) may hold any values; if
    it is None, all hold finite ones.
    Query heads that share a key/value head are laid out one after another, as if they were more
    tokens, so that keys and values need not be repeated. `bias` (B, H, T, S) is added to the
    scores. All are of the data type of `like`.
    """
    # 0 copies the size of that axis; -1 takes the remaining elements.
    grouped = op.Constant(value_ints=[0, n_kv_head, -1, 0])  # (B, K, H / K * T, ...)
    single = op.Constant(value_ints=[0, n_head, -1, 0])  # (B, H, T, ...)
    q = op.Reshape(_scaled(op, q, scale, like), grouped)
    scores = op.MatMul(q, op.Transpose(keys, perm=[0, 1, 3, 2]))  # (B, K, H / K * T, S)
    if softcap:
        cap = scalar(op, softcap, like)
        scores = op.Mul(op.Tanh(op.Div(scores, cap)), cap)
    scores = op.Reshape(scores, single)  # (B, H, T, S)
    if bias is not None:
        scores = op.Add(scores, bias)
    scores = op.Where(visible, scores, scalar(op, float("-inf"), like))
    weights = op.Reshape(_softmax(op, scores, like), grouped)  # (B, K, H / K * T, S)
    if used is not None:  # other slots may hold NaN, and 0 * NaN is NaN
        values = op.Where(used, values, scalar(op, 0.0, like))  # (B, K, S, D)
    return op.Reshape(op.MatMul(weights, values), single)


def source_heads(op: Any, q: Any, k: Any, n_head: int) -> Any:
    """Return the queries (G * F, T, H * D) of rows as those of sources, (G, H, F * T, D)."""
    sources = op.Shape(k, start=0, end=1)
    shape = op.Concat(sources, op.Constant(value_ints=[-1, n_head, k.shape[3]]), axis=0)
    return op.Transpose(op.Reshape(q, shape), perm=[0, 2, 1, 3])


def source_rows(op: Any, out: Any, q: Any) -> Any:
    """Return what sources (G, H, F * T, D) gave as rows, in the shape of `q` (G * F, T, H * D)."""
    return op.Reshape(op.Transpose(out, perm=[0, 2, 1, 3]), op.Shape(q))


def source_places(op: Any, k: Any, source_len: Any) -> Any:
    """Return bool (G, 1, 1, N): which places of the keys (G, H, N, D) a source has."""
    end = op.Unsqueeze(source_len, op.Constant(value_ints=[1, 2, 3]))  # (G, 1, 1, 1)
    return op.Less(range_of(op, op.Shape(k, start=2, end=3)), end)


def masked(op: Any, bias: Any, visible: Any, like: Any) -> Any:
    """Return `bias`, -inf where something is not `visible`; or `visible`, if there is no bias."""
    return visible if bias is None else op.Where(visible, bias, scalar(op, float("-inf"), like))


def _scaled(op: Any, q: Any, scale: float, like: Any) -> Any:
    """Return `q` times `scale`, which is not rounded to their type: only powers of 2 are exact."""
    if like.dtype == ir.DataType.FLOAT or math.frexp(scale)[0] == 0.5:
        return op.Mul(q, scalar(op, scale, like))
    wide = op.Mul(op.Cast(q, to=ir.DataType.FLOAT), op.Constant(value_float=scale))
    return op.Cast(wide, to=like.dtype)


def _softmax(op: Any, scores: Any, like: Any) -> Any:
    """Return the softmax of `scores` in the type of `like`, computed in float32."""
    if like.dtype == ir.DataType.FLOAT:
        return op.Softmax(scores, axis=-1)
    wide = op.Softmax(op.Cast(scores, to=ir.DataType.FLOAT), axis=-1)
    return op.Cast(wide, to=like.dtype)


def _rotated(op: Any, x: Any, cos: Any, sin: Any, position: Any, *, angles: int, width: int) -> Any:
    """Rotate (B, heads, T, width) by rows `position` (B, T) of the tables [positions, angles]."""
    axis = op.Constant(value_ints=[1])
    row_cos = op.Unsqueeze(op.Gather(cos, position), axis)  # (B, 1, T, angles)
    row_sin = op.Unsqueeze(op.Gather(sin, position), axis)
    end = 2 * angles
    first, second = between(op, x, 0, angles, axis=3), between(op, x, angles, end, axis=3)
    rest = [between(op, x, end, width, axis=3)] if end < width else []
    return op.Concat(
        op.Sub(op.Mul(first, row_cos), op.Mul(second, row_sin)),
        op.Add(op.Mul(second, row_cos), op.Mul(first, row_sin)),
        *rest,
        axis=-1,
    )


def in_type_of(op: Any, table: Any, like: Any) -> Any:
    """Return `table` in the type of `like`: the type varies if some layers stay in float32."""
    return table if table.dtype == like.dtype else op.Cast(table, to=like.dtype)


def scalar(op: Any, value: float, like: Any) -> Any:
    """Return a constant without axes, of the data type of `like`."""
    return op.Constant(value=ir.tensor(np.array(value, dtype=like.dtype.numpy()), like.dtype))
