"""Whether the graphs of a quantised bundle compute what its exact checks prove.

The exact checks have float32's limit, but run a graph of their own. Others round activations, or
compute in float16, and the limits for that are so wide that a wrong epsilon or scale of attention
stays below them; that for TensorRT runs on no CPU. So each must be the same graph, but for what it
is there for:

- the one that decodes, in everything but the attribute that says whether activations are rounded;
- those for long texts, and a browser's, in everything but the products that they do in int8. Such a
  product must be made as `export/passes/quantize_activations.py` does, from the same operands;
- the one in float16, in everything but casts, and the rounding of constants;
- TensorRT's, in everything but the operators that dequantise, which must be those of
  `export/passes/dequantize_weights.py`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.manifest import WeightEntry
from ..bundle.onnx_file import TENSOR_NAME
from ..bundle.protobuf import number_field, text_field
from ..bundle.vocabulary import QUANTISED, Part
from ..bundle.widening import wide_model
from .formulas import (
    FLOAT32,
    INT8_PRODUCT,
    INT64,
    LOOKUP,
    PRODUCT,
    UINT8,
    Formula,
    Formulas,
    Instead,
    Reading,
    kept,
    text_of,
    whole_number,
)
from .receipt import Check
from .replay import counted

__all__ = ["graph_checks"]

# The name of a check, the part that is compared, and the part that proves it; in one lowering, and
# in TensorRT's with "standard".
PAIRS: tuple[tuple[str, Part, Part], ...] = (
    ("graph", "decoder", "exact"),
    ("prefill graph", "prefill", "exact"),
    ("encoder graph", "encoder", "exact-encoder"),
    ("half graph", "half", "exact"),
)
TENSORRT_PAIRS: tuple[tuple[str, Part], ...] = (
    (f"{QUANTISED} graph", "exact"),
    (f"{QUANTISED} encoder graph", "exact-encoder"),
)
ROWS = b".rows"  # ends a weight's name where rows of it are looked up
TURN = text_field(1, "perm") + number_field(8, 1) + number_field(8, 0) + number_field(20, 7)
NOTHING = -2  # the number of a value that a graph does not have


def graph_checks(bundle: Bundle, lowering: str) -> list[Check]:
    """Return a check of each graph that the exact one of a lowering proves.

    Its positions are inputs, outputs, and what is said of the whole graph, such as the opset; its
    error counts those that differ.

    Raises:
        BundleError: if a graph is not an ONNX file, or lacks inputs of an operator.
    """
    models: dict[tuple[str, Part], bytes] = {
        (graph.lowering, graph.part): bundle.file(graph.file).read_bytes()
        for graph in bundle.manifest.graphs
    }
    checks = []
    for name, part, exact in PAIRS:
        if (lowering, part) in models and (lowering, exact) in models:
            own, proved = models[lowering, part], models[lowering, exact]
            if part == "half":
                checks.append(_check(name, wide_model(own), proved, narrow=True))
            else:
                checks.append(_check(name, own, proved, _in_int8))
    for name, exact in TENSORRT_PAIRS if lowering == "standard" else ():
        if (QUANTISED, exact) in models:
            own, proved = models[QUANTISED, exact], models[lowering, exact]
            checks.append(_check(name, own, proved, partial(_dequantised, bundle)))
    return checks


def _check(
    name: str,
    model: bytes,
    exact: bytes,
    rule: Callable[[Reading], Instead] = lambda _: kept,
    *,
    narrow: bool = False,
) -> Check:
    """Compare two graphs; `rule` tells what takes the place of nodes of the exact one."""
    formulas = Formulas()
    own = Reading(formulas, model, narrow=narrow)
    proved = Reading(formulas, exact, rule(own), narrow=narrow)
    wrong = max((own.ends - proved.ends).total(), (proved.ends - own.ends).total())
    return counted(name, wrong, max(wrong, proved.ends.total()))


def _in_int8(own: Reading) -> Instead:
    """Return what takes the place of a product where a graph multiplies its weight in int8.

    A row of activations is rounded to 127 steps of its largest magnitude, around 128.
    """
    formulas, made = own.formulas, own.formulas.made
    columns = {one.read[1] for one in formulas.all if one.kind == INT8_PRODUCT}
    if not columns:
        return kept
    step = formulas.constant(np.array(1 / 127, np.float32), FLOAT32)
    middle = formulas.constant(np.array(128, np.uint8), UINT8)
    smallest = formulas.constant(np.array(1e-30, np.float32), FLOAT32)
    last = formulas.constant(np.array([-1]), INT64)

    def instead(product: Formula) -> int | None:
        weight, scales = _columns_of(product, own)
        if weight not in columns:
            return None
        x = product.read[0]
        largest = made(b"Max", made(b"ReduceMax", made(b"Abs", x), last), smallest)
        rounded = made(b"QuantizeLinear", made(b"Div", x, largest), step, middle)
        return made(b"Mul", made(INT8_PRODUCT, rounded, weight, step, scales, middle), largest)

    return instead


def _columns_of(product: Formula, own: Reading) -> tuple[int, int]:
    """Return the columns, and their scales, that a product in int8 would read in a graph."""
    if product.kind == PRODUCT:
        name = _name(product, own)
        columns, scales = name + b".columns", name + b".column_scales"
        return own.values.get(columns, NOTHING), own.values.get(scales, NOTHING)
    if product.kind == b"MatMul":  # in a browser, by Mul(Cast(columns), scales)
        weight = own.formulas.all[product.read[1]]
        wide = own.formulas.all[weight.read[0]] if weight.kind == b"Mul" else weight
        if wide.kind == b"Cast":
            return wide.read[0], weight.read[-1]
    return NOTHING, NOTHING


def _dequantised(bundle: Bundle, own: Reading) -> Instead:
    """Return what takes the place of operators on integers in a graph for TensorRT."""
    formulas, made = own.formulas, own.formulas.made
    quantization, weights = bundle.manifest.quantization, bundle.manifest.weights

    def instead(formula: Formula) -> int | None:
        name = _name(formula, own) if formula.kind in (PRODUCT, LOOKUP) else b""
        text = name.decode(errors="replace")
        integers, scales = weights.get(text), weights.get(f"{text}.scales")
        if integers is None or scales is None or quantization is None:
            return None
        if (len(integers.shape), len(scales.shape)) != (3, 2):  # of a manifest that is wrong
            return None
        table, signed, magnitudes, corrections = (
            own.values.get(name + kind, NOTHING)
            for kind in (b".table", b".signed", b".magnitudes", b".corrections")
        )
        if formula.kind == LOOKUP:
            return made(b"Gather", table, formula.read[1], attributes=[whole_number("axis", 0)])
        x, blocks = formula.read[0], scales.shape[1]
        block = integers.shape[2] * 8 // quantization.bits_of(text)
        blocked = [whole_number("axis", 1), whole_number("block_size", block)]
        weight = made(b"DequantizeLinear", signed, magnitudes, attributes=blocked)
        product = made(b"MatMul", x, made(b"Transpose", weight, attributes=[TURN]))
        if not _any_negative(bundle, scales):
            return product
        cut = made(b"Reshape", x, formulas.constant(np.array([0, 0, blocks, block]), INT64))
        last = formulas.constant(np.array([3]), INT64)
        sums = made(b"ReduceSum", cut, last, attributes=[whole_number("keepdims", 0)])
        return made(b"Add", product, made(b"MatMul", sums, corrections))

    return instead


def _any_negative(bundle: Bundle, scales: WeightEntry) -> bool:
    path, count = bundle.file(bundle.manifest.weights_file), scales.size // 4
    return bool((np.fromfile(path, "<f4", count, offset=scales.offset) <= 0).any())


def _name(formula: Formula, own: Reading) -> bytes:
    """Return the name of the weight that a product multiplies by, or a lookup reads rows of."""
    weight = formula.read[0 if formula.kind == LOOKUP else 1]
    return text_of(own.formulas.all[weight].kind, TENSOR_NAME).removesuffix(ROWS)
