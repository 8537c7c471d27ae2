"""The portable lowering: opset 24, TensorScatter into the cache and Attention with a mask.

Read by ONNX Runtime from 1.25, TensorRT from 10.15, and browsers. The mask is an explicit boolean
tensor: the shorter form, `nonpad_kv_seqlen` with `is_causal`, is computed wrongly by ONNX Runtime
1.25 to 1.27 and silently dropped by TensorRT.
"""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript.onnx_opset import opset24 as op

import edgegpt.cached_attention  # noqa: F401 - registers the operator named below

__all__ = ["IR_VERSION", "NAME", "OPSET", "PASSES", "translations"]

NAME = "standard"
OPSET = 24
IR_VERSION = 10  # onnx's own default is newer than what ONNX Runtime 1.31 accepts
PASSES = ()


def translations() -> dict[Any, Callable[..., Any]]:
    """Return what `torch.onnx.export` takes as `custom_translation_table`."""
    return {torch.ops.edgegpt.cached_attention.default: _cached_attention}


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
    """Emit one layer's attention; arguments and results as `edgegpt.cached_attention`."""
    # 0 copies the size of that axis, -1 is what remains: D.
    split = op.Reshape(qkv, op.Constant(value_ints=[0, 0, n_head + 2 * n_kv_head, -1]))
    heads = op.Transpose(split, perm=[0, 2, 1, 3])  # (B, H + 2K, T, D)
    q = _heads(heads, 0, n_head)  # (B, H, T, D)
    k = _heads(heads, n_head, n_head + n_kv_head)  # (B, K, T, D)
    v = _heads(heads, n_head + n_kv_head, n_head + 2 * n_kv_head)  # (B, K, T, D)

    length = op.Shape(qkv, start=1, end=2)  # [T]
    position = op.Add(  # (B, T): the cache slot of each new token
        op.Unsqueeze(past_len, op.Constant(value_ints=[1])), _range(length)
    )
    if cos is not None:
        q, k = _rotate(q, cos, sin, position), _rotate(k, cos, sin, position)

    present_k = op.TensorScatter(past_k, k, past_len, axis=-2)  # (B, K, S, D)
    present_v = op.TensorScatter(past_v, v, past_len, axis=-2)  # (B, K, S, D)
    slots = op.Shape(past_k, start=2, end=3)  # [S]
    visible = op.LessOrEqual(  # (B, T, S)
        _range(slots), op.Unsqueeze(position, op.Constant(value_ints=[2]))
    )
    mask = op.Unsqueeze(visible, op.Constant(value_ints=[1]))  # (B, 1, T, S)
    out = op.Attention(q, present_k, present_v, mask, scale=scale)[0]  # (B, H, T, D)
    out = op.Transpose(out, perm=[0, 2, 1, 3])  # (B, T, H, D)
    out = op.Reshape(out, op.Constant(value_ints=[0, 0, -1]))  # (B, T, H * D)
    return out, present_k, present_v


def _heads(heads: Any, first: int, end: int) -> Any:
    """Return heads first .. end - 1 of (B, heads, T, D)."""
    start, stop, axis = [first], [end], [1]
    return op.Slice(
        heads,
        op.Constant(value_ints=start),
        op.Constant(value_ints=stop),
        op.Constant(value_ints=axis),
    )


def _range(size: Any) -> Any:
    """Return int64 [size], counting from 0; `size` is int64 [1]."""
    end = op.Squeeze(size, op.Constant(value_ints=[0]))
    return op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1))


def _rotate(x: Any, cos: Any, sin: Any, position: Any) -> Any:
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
