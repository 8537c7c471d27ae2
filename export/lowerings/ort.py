"""The lowering for ONNX Runtime: its own fused operators, and as few nodes as they allow.

GroupQueryAttention takes the packed projection, rotates it, and writes keys and values into the
cache in place. In half precision, residual additions are fused into the norms. Values that depend
only on the lengths of the rows are computed once by the host and fed, because on a small model each
node costs as much as a thousandth of the time of a step. Rows may differ in length. The operator
cannot take several new tokens per row in a batch on top of filled caches; the engine feeds those
row by row.
"""

from typing import Any

import onnx
import onnxscript
import torch
from onnxscript.onnx_opset import opset23

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


def _operator(
    name: str, inputs: list[str], outputs: list[str], attributes: dict[str, bool]
) -> onnxscript.values.Op:
    """Return one of ONNX Runtime's operators with what onnxscript needs to call it.

    `attributes` tells of each whether it is required. Whole numbers are those that count something.
    """
    schema = onnx.defs.OpSchema
    types = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int32)"]
    optional = schema.FormalParameterOption.Optional
    return onnxscript.values.Op(
        onnxscript.values.Opset(MICROSOFT, 1),
        name,
        schema(
            name,
            MICROSOFT,
            1,
            inputs=[schema.FormalParameter(n, "T", param_option=optional) for n in inputs],
            outputs=[schema.FormalParameter(n, "T") for n in outputs],
            type_constraints=[("T", types, "")],
            attributes=[
                schema.Attribute(
                    n,
                    schema.AttrType.FLOAT if n in FRACTIONS else schema.AttrType.INT,
                    required=required,
                )
                for n, required in attributes.items()
            ],
        ),
    )


FRACTIONS = ("scale", "softcap", "mask_filter_value")
GROUP_QUERY_ATTENTION: Any = _operator(
    "GroupQueryAttention",
    [
        *("query", "key", "value", "past_key", "past_value", "seqlens_k"),
        *("total_sequence_length", "cos_cache", "sin_cache", "position_ids", "attention_bias"),
    ],
    ["output", "present_key", "present_value"],
    dict.fromkeys(("num_heads", "kv_num_heads", "scale", "do_rotary"), True)
    | {"local_window_size": False, "softcap": False},
)
MULTI_HEAD_ATTENTION: Any = _operator(
    "MultiHeadAttention",
    ["query", "key", "value", "bias", "key_padding_mask", "attention_bias"],
    ["output"],
    dict.fromkeys(("num_heads", "scale", "mask_filter_value"), True),
)


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
    sources, width = op.Shape(k, start=0, end=1), op.Shape(q, start=2, end=3)
    shape = op.Concat(sources, op.Constant(value_ints=[-1]), width, axis=0)
    out = MULTI_HEAD_ATTENTION(
        op.Reshape(q, shape),  # (G, F * T, H * D)
        k,
        v,
        None,
        op.Cast(source_len, to=onnx.TensorProto.INT32),
        bias,
        num_heads=n_head,
        scale=scale,
        mask_filter_value=float("-inf"),  # the default, -10,000, lets a little through
    )
    return op.Reshape(out, op.Shape(q))


ORT = Lowering(
    name="ort",
    opset=23,
    ir_version=10,
    translations={
        torch.ops.edgegpt.cached_attention.default: _cached_attention,
        torch.ops.edgegpt.source_attention.default: _source_attention,
    },
    passes=(FeedPositions,),
    # One kernel in place of two or three on a GPU. That of the CPU takes 4.0 ns a number, where
    # additions and a LayerNorm take 0.5; with an RMSNorm 0.65 and 0.31.
    half_passes=(FuseSkipNorms,),
    obstacle=_obstacle,
)
