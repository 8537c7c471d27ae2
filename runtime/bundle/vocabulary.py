"""The words that a manifest may use, defined only here for all code that reads a bundle."""

from typing import Final, Literal, get_args

__all__ = [
    "AXES",
    "BITS",
    "DTYPES",
    "FINER_BITS",
    "FLOATS",
    "ITEM_BYTES",
    "LOWERINGS",
    "METHODS",
    "PARTS",
    "POSITIONS",
    "PRECISIONS",
    "QUANTISED",
    "ROLES",
    "WEIGHT_DTYPES",
    "WEIGHT_ITEM_BYTES",
    "Axis",
    "Dtype",
    "Lowering",
    "Method",
    "Part",
    "Position",
    "Precision",
    "Role",
    "WeightDtype",
]

# The precision of a bundle's weights; its activations may be wider.
Precision = Literal["float32", "float16", "bfloat16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BITS: dict[Precision, int] = {"int8": 8, "int4": 4}  # of most weights in a quantised bundle
FINER_BITS = 8  # of the weights in it that need more, see `manifest.Quantization`

# Which operators a graph is made of: see `edgegpt.export.lowerings`. "standard-qdq" is "standard"
# for quantised bundles on TensorRT: standard ONNX operators dequantise the weights.
Lowering = Literal["ort", "standard", "legacy", "standard-qdq"]
LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
QUANTISED: Final = "standard-qdq"

# What a graph is for. "decoder" can do everything. A quantised bundle also has two graphs with the
# same inputs and outputs: "prefill" is faster for long steps, and "exact" does not round
# activations. "exact" serves as the reference, and for engines that never round activations.
# A third, "half", has activations and cache in float16, for GPUs.
# Of an encoder-decoder there are also the encoder, and one that does not round.
Part = Literal["decoder", "prefill", "exact", "half", "encoder", "exact-encoder"]
PARTS: tuple[Part, ...] = get_args(Part)

# How positions enter a model; "none": only by the order that the causal mask gives.
Position = Literal["learned", "sinusoidal", "rope", "relative", "none"]
POSITIONS: tuple[Position, ...] = get_args(Position)

# How weights were quantised: rounded to nearest, or by GPTQ.
Method = Literal["rtn", "gptq"]
METHODS: tuple[Method, ...] = get_args(Method)

# What an input or an output holds. In the lowering "ort" seqlens_k, total_sequence_length and
# position_ids replace past_len (see `edgegpt.export.passes.FeedPositions`). "source" is what an
# encoder makes of a text for the layers of a decoder: outputs of the one, inputs of the other.
Role = Literal[
    "ids",
    "past_len",
    "logit_positions",
    "cache",
    "logits",
    "seqlens_k",
    "total_sequence_length",
    "position_ids",
    "source_ids",
    "source_len",
    "source",
]
ROLES: tuple[Role, ...] = get_args(Role)

# The dtype of an input or an output.
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

# The dtype of a weight, as safetensors names it.
WeightDtype = Literal["F32", "F16", "BF16", "U8", "I8"]
WEIGHT_DTYPES: tuple[WeightDtype, ...] = get_args(WeightDtype)
WEIGHT_ITEM_BYTES: dict[WeightDtype, int] = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1}

# Axes whose size is chosen when a graph runs: rows, tokens of a step, cache slots, tokens of a step
# whose logits are wanted, source texts, and places of a source. `batch` is a multiple of `sources`:
# the rows of one source lie side by side.
Axis = Literal["batch", "new_tokens", "context", "logit_positions", "sources", "source"]
AXES: tuple[Axis, ...] = get_args(Axis)
