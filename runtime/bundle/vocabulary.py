"""The words of a manifest: each is known to all who read a bundle, and told here alone."""

from typing import Final, Literal, get_args

__all__ = [
    "AXES",
    "DTYPES",
    "FLOATS",
    "ITEM_BYTES",
    "LOWERINGS",
    "PARTS",
    "PRECISIONS",
    "QUANTISED",
    "ROLES",
    "WEIGHT_DTYPES",
    "WEIGHT_ITEM_BYTES",
    "Axis",
    "Dtype",
    "Lowering",
    "Part",
    "Precision",
    "Role",
    "WeightDtype",
]

# What the weights of a bundle are; its activations may be wider.
Precision = Literal["float32", "float16", "bfloat16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Which operators a graph is made of: see `edgegpt.export.lowerings`. "standard-qdq" is the one of
# quantised bundles for TensorRT: "standard", with weights of operators that ONNX itself has.
Lowering = Literal["ort", "standard", "legacy", "standard-qdq"]
LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
QUANTISED: Final = "standard-qdq"

# What a graph is for. "decoder" can do everything; a quantised bundle also has, with the same
# inputs and outputs, "prefill", which is faster for long steps, and "exact", which does not round
# activations: it is there to be compared with, and for engines that round none.
Part = Literal["decoder", "prefill", "exact"]
PARTS: tuple[Part, ...] = get_args(Part)

# What an input or an output holds. The last three take the place of past_len in the lowering "ort"
# (see `edgegpt.export.passes.FeedPositions`).
Role = Literal[
    "ids",
    "past_len",
    "logit_positions",
    "cache",
    "logits",
    "seqlens_k",
    "total_sequence_length",
    "position_ids",
]
ROLES: tuple[Role, ...] = get_args(Role)

# Of the numbers in an input or an output.
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
FLOATS: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
ITEM_BYTES: dict[Dtype, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
}

# Of the numbers of a weight, by the names of safetensors.
WeightDtype = Literal["F32", "F16", "BF16", "U8", "I8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)
WEIGHT_ITEM_BYTES: dict[WeightDtype, int] = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1}

# Axes whose size is chosen when a graph is run: rows, tokens of a step, slots of the cache, and
# tokens of a step whose logits are wanted.
Axis = Literal["batch", "new_tokens", "context", "logit_positions"]
AXES: tuple[Axis, ...] = get_args(Axis)
