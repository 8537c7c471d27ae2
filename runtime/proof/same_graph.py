"""Whether a quantised bundle generates with the graph that its exact checks prove.

As it runs, it rounds activations, and the limit for that is so wide that a wrong epsilon or scale
of attention stays below it. The exact checks have float32's limit, but run a graph of their own. So
the graphs must be the same: the one that decodes in everything but the attribute that says whether
activations are rounded, those for long texts in everything but the products that they do in int8.
Such a product must be made as `export/passes/quantize_activations.py` does, from the same operands.

A browser's graphs have no such products in common, and are left out.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.onnx_file import (
    GRAPH,
    INITIALIZER,
    NODE,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_NAME,
    TENSOR_RAW,
    edited,
)
from ..bundle.protobuf import bytes_field, read_fields, text_field
from ..bundle.vocabulary import Part
from .receipt import Check
from .replay import counted

__all__ = ["graph_checks"]

PROVED: dict[Part, Part] = {"decoder": "exact", "prefill": "exact", "encoder": "exact-encoder"}
PRODUCT, INT8_PRODUCT = b"MatMulNBits", b"MatMulIntegerToFloat"
BIAS = 5  # the place of a bias among the inputs of MatMulNBits
# How a row of activations is rounded: to 127 steps of its largest magnitude, around 128.
CONSTANTS = {
    b"int8.step": np.float32(1 / 127).tobytes(),
    b"int8.middle": np.uint8(128).tobytes(),
    b"int8.smallest": np.float32(1e-30).tobytes(),
    b"int8.last_axis": np.int64(-1).tobytes(),
}
Formula: TypeAlias = "bytes | tuple[Formula, ...]"  # an operator, then what it reads; or a name
ROUNDS = text_field(1, "accuracy_level")  # the name of an attribute
NO_EFFECT = (2, 13)  # of a graph: its name, and the types of values, which follow from the rest


def graph_checks(bundle: Bundle, lowering: str) -> list[Check]:
    """Return a check of each graph that generates in a lowering.

    Its positions are the nodes, weights, inputs and outputs; its error counts those that differ.

    Raises:
        BundleError: if a graph is not an ONNX file.
    """
    graphs = [graph for graph in bundle.manifest.graphs if graph.lowering == lowering]
    parts = {graph.part: Counter(_parts(bundle.file(graph.file).read_bytes())) for graph in graphs}
    checks = []
    for part, exact in PROVED.items():
        if part in parts and exact in parts and any(map(_is_product, parts[exact])):
            wrong = _differing(parts[part], parts[exact])
            name = "graph" if part == "decoder" else f"{part} graph"
            checks.append(counted(name, wrong, max(wrong, parts[exact].total())))
    return checks


def _differing(own: Counter[bytes], exact: Counter[bytes]) -> int:
    """Return how much one of two graphs has alone, but for products in int8 and what they read.

    What is added beside them has no effect: no node of the exact graph reads it.
    """
    missing, added = exact - own, own - exact
    if not any(INT8_PRODUCT in _texts(part, NODE, NODE_OP_TYPE) for part in added):
        return max(missing.total(), added.total())
    replaced = {part for part in missing if _is_product(part)}
    read = {name for part in exact.keys() - replaced for name in _texts(part, NODE, NODE_INPUT)}
    makers = {name: part for part in added for name in _texts(part, NODE, NODE_OUTPUT)}
    wrong = sum(not _computes(*_in_int8(product), makers) for product in replaced)
    wrong += sum(not _is_constant(part) for part in added)
    return wrong + sum(
        part not in replaced and read.issuperset(_texts(part, INITIALIZER, TENSOR_NAME))
        for part in missing.elements()
    )


def _in_int8(product: bytes) -> tuple[bytes, Formula]:
    """Return a product's output, and the formula that takes its place."""
    x, weight, *more = _texts(product, NODE, NODE_INPUT)
    (output,) = _texts(product, NODE, NODE_OUTPUT)
    columns, scales = weight + b".columns", weight + b".column_scales"
    largest = (b"Max", (b"ReduceMax", (b"Abs", x), b"int8.last_axis"), b"int8.smallest")
    rounded = (b"QuantizeLinear", (b"Div", x, largest), b"int8.step", b"int8.middle")
    whole = (INT8_PRODUCT, rounded, columns, b"int8.step", scales, b"int8.middle")
    scaled = (b"Mul", whole, largest)
    return output, (b"Add", scaled, more[-1]) if len(more) > BIAS - 2 else scaled


def _computes(name: bytes, formula: Formula, makers: dict[bytes, bytes]) -> bool:
    """Return whether nodes, which have no attributes, compute a value by a formula."""
    if isinstance(formula, bytes):
        return name == formula
    maker, (kind, *operands) = makers.get(name), formula
    if maker is None or any(True for _ in _texts(maker, NODE, NODE_ATTRIBUTE)):
        return False
    inputs = list(_texts(maker, NODE, NODE_INPUT))
    return (
        [kind] == list(_texts(maker, NODE, NODE_OP_TYPE))
        and len(inputs) == len(operands)
        and all(_computes(one, each, makers) for one, each in zip(inputs, operands, strict=True))
    )


def _is_constant(part: bytes) -> bool:
    """Return whether a weight has the value that its name stands for, if that is one of ours."""
    values = {CONSTANTS.get(name) for name in _texts(part, INITIALIZER, TENSOR_NAME)} - {None}
    return not values or values == set(_texts(part, INITIALIZER, TENSOR_RAW))


def _parts(model: bytes) -> Iterator[bytes]:
    """Yield the fields of a model, and those of its graph, without how its products round."""
    for field in read_fields(edited(model, ((GRAPH,), (NODE,)), _without_rounding)):
        if field.number != GRAPH:
            yield field.whole
            continue
        inner = read_fields(field.value)
        yield from (part.whole for part in inner if part.number not in NO_EFFECT)


def _without_rounding(node: bytes) -> bytes:
    """Return a node without the attribute, and without the omitted inputs that end its list."""
    fields = list(read_fields(node))
    inputs = [field.value for field in fields if field.number == NODE_INPUT]
    while inputs and not inputs[-1]:
        inputs.pop()
    rest = (
        field.whole
        for field in fields
        if field.number != NODE_INPUT
        and not (field.number == NODE_ATTRIBUTE and field.value.startswith(ROUNDS))
    )
    return b"".join((*(bytes_field(NODE_INPUT, name) for name in inputs), *rest))


def _is_product(part: bytes) -> bool:
    return PRODUCT in _texts(part, NODE, NODE_OP_TYPE)


def _texts(part: bytes, kind: int, number: int) -> Iterator[bytes]:
    """Yield the texts of that number in a field, if it is of that kind."""
    (field,) = read_fields(part)
    if field.number == kind:
        yield from (inner.value for inner in read_fields(field.value) if inner.number == number)
