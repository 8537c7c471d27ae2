"""The lowering for ONNX Runtime: its own fused operators, and as few nodes as they allow.

GroupQueryAttention takes the packed projection, rotates it, and writes keys and values into the
cache in place. Passes then fuse residual additions into the norms. Values that depend only on the
lengths of the rows are computed once by the host and fed, because on a small model each node costs
as much as a thousandth of the time of a step. Rows may differ in length. The operator cannot take
several new tokens per row in a batch on top of filled caches; the engine feeds those row by row.
"""

from typing import Any

import onnx
import onnxscript
import torch
from onnxscript.onnx_opset import opset23

import edgegpt.model.cached_attention  # noqa: F401 - registers the operator named below
from edgegpt.model import GPTConfig

from ..passes import FeedPositions, FuseSkipNorms
from ..passes.parts import MICROSOFT
from .base import Lowering
from .parts import in_type_of, normed

__all__ = ["ORT"]

# What GroupQueryAttention's CPU kernel accepts (ONNX Runtime 1.31, group_query_attention_helper.h):
# widths of a head, with and without a rotation, and numbers of rotary angles.
HEAD_STEP = 8
ROTARY_HEAD_STEP = 16
ANGLES_STEP = 8
NO_WINDOW = -1

op: Any = opset23  # Any: onnxscript types its operators for eager evaluation


def _obstacle(config: GPTConfig) -> str | None:
    """Return why a model of this shape cannot be lowered, or None if it can."""
    angles = {len(kind.rotary) for kind in config.kinds if kind.rotary}
    step = ROTARY_HEAD_STEP if angles else HEAD_STEP
    if config.head_dim % step:
        return (
            f"ONNX Runtime's GroupQueryAttention {'rotates' if angles else 'takes'} heads whose "
            f"width is a multiple of {step} only, and this model's are {config.head_dim} wide"
        )
    odd = sorted(count for count in angles if count % ANGLES_STEP)
    if odd:
        return (
            f"ONNX Runtime's GroupQueryAttention rotates by a multiple of {ANGLES_STEP} angles "
            f"only, and this model has {odd[0]}"
        )
    return None


def _attention_operator() -> onnxscript.values.Op:
    """Return GroupQueryAttention with the part of its schema that onnxscript needs to call it."""
    schema = onnx.defs.OpSchema
    types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int32)"]
    inputs = ["query", "key", "value", "past_key", "past_value", "seqlens_k"]
    inputs += ["total_sequence_length", "cos_cache", "sin_cache", "position_ids", "attention_bias"]
    optional = schema.FormalParameterOption.Optional
    return onnxscript.values.Op(
        onnxscript.values.Opset(MICROSOFT, 1),
        "GroupQueryAttention",
        schema(
            "GroupQueryAttention",
            MICROSOFT,
            1,
            inputs=[schema.FormalParameter(n, "T", param_option=optional) for n in inputs],
            outputs=[
                schema.FormalParameter(n, "T") for n in ("output", "present_key", "present_value")
            ],
            type_constraints=[("T", types, "")],
            attributes=[
                schema.Attribute("num_heads", schema.AttrType.INT, required=True),
                schema.Attribute("kv_num_heads", schema.AttrType.INT, required=True),
                schema.Attribute("scale", schema.AttrType.FLOAT, required=True),
                schema.Attribute("do_rotary", schema.AttrType.INT, required=True),
                schema.Attribute("local_window_size", schema.AttrType.INT, required=False),
                schema.Attribute("softcap", schema.AttrType.FLOAT, required=False),
            ],
        ),
    )


GROUP_QUERY_ATTENTION: Any = _attention_operator()


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
    """Emit one layer's attention; arguments and results are those of `cached_attention`.

    The operator takes the last slot of each row and the longest length. `past_len` is a placeholder
    for both; `FeedPositions` replaces it by inputs that the host fills.
    """
    if cos is not None:
        cos, sin = in_type_of(op, cos, past_k), in_type_of(op, sin, past_k)
    q, k, v = qkv, None, None
    if q_norm is not None:
        counts = (n_head, n_kv_head, n_kv_head)
        q, k, v = normed(op, qkv, past_k, counts, (q_norm, k_norm), norm_eps)
    out, present_k, present_v = GROUP_QUERY_ATTENTION(
        q,
        k,
        v,
        past_k,
        past_v,
        op.Cast(past_len, to=onnx.TensorProto.INT32),
        op.Cast(past_len, to=onnx.TensorProto.INT32),
        cos,
        sin,
        None,
        bias,
        num_heads=n_head,
        kv_num_heads=n_kv_head,
        scale=scale,
        do_rotary=int(cos is not None),
        local_window_size=window or NO_WINDOW,
        softcap=softcap,
    )
    return out, present_k, present_v


ORT = Lowering(
    name="ort",
    opset=23,
    ir_version=10,
    translations={torch.ops.edgegpt.cached_attention.default: _cached_attention},
    passes=(FeedPositions, FuseSkipNorms),
    obstacle=_obstacle,
)
