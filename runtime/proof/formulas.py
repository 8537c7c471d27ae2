"""How a graph computes its outputs: formulas with numbers, so that two graphs can be compared.

Two values have the same number exactly if the same formula makes them of the same inputs and
weights, whatever the values between are called. What changes no result is no difference: the order
of two summands, whether a product adds its bias or a node after it, whether a norm adds the stream
that it normalises. Nor is how exactly a product is asked to multiply (`accuracy_level`).

Field numbers are those of onnx.proto.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bundle.onnx_file import (
    GRAPH,
    INITIALIZER,
    NODE,
    NODE_ATTRIBUTE,
    NODE_DOMAIN,
    NODE_INPUT,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_EXTERNAL,
    TENSOR_NAME,
    TENSOR_RAW,
)
from ..bundle.protobuf import Field, bytes_field, number_field, read_fields, text_field
from ..errors import BundleError

__all__ = [
    "FLOAT32",
    "INT8_PRODUCT",
    "INT64",
    "LOOKUP",
    "PRODUCT",
    "UINT8",
    "Formula",
    "Formulas",
    "Instead",
    "Reading",
    "kept",
    "text_of",
    "whole_number",
]

MICROSOFT = b"com.microsoft."
PRODUCT = MICROSOFT + b"MatMulNBits"
BIAS = 5  # the place of a bias among its inputs
NORMS = (b"LayerNormalization", b"RMSNormalization")
# A norm that adds first -> the norm, and the place of the bias that it adds, too.
SKIP_NORMS = {
    MICROSOFT + b"SkipLayerNormalization": (NORMS[0], 4),
    MICROSOFT + b"SkipSimplifiedLayerNormalization": (NORMS[1], 3),
}
NORMED, SUM = 0, 3  # places among its outputs
INT8_PRODUCT = MICROSOFT + b"MatMulIntegerToFloat"
LOOKUP = MICROSOFT + b"GatherBlockQuantized"
# Operators whose inputs are told apart -> how many each has at least.
LEAST = {b"Cast": 1, b"MatMul": 2, b"Mul": 2, PRODUCT: 3, LOOKUP: 3, INT8_PRODUCT: 4}
LEAST |= dict.fromkeys(SKIP_NORMS, 3)

MODEL_OPSETS, OPSET_DOMAIN = 8, 1
GRAPH_NAME, INPUT, OUTPUT, BETWEEN = 2, 11, 12, 13  # the last has types, which follow from the rest
VALUE_NAME, VALUE_TYPE = 1, 2
TENSOR_DIMS, TENSOR_DTYPE, ATTRIBUTE_TENSOR = 1, 2, 5
FLOAT32, UINT8, INT64, FLOAT16 = 1, 2, 7, 10  # element types
OMITTED = -1  # the number of an input that is not there


def whole_number(name: str, number: int) -> bytes:
    """Return an attribute."""
    return text_field(1, name) + number_field(3, number) + number_field(20, 2)


ROUNDS = text_field(1, "accuracy_level")  # the name of an attribute
DEFAULTS = {whole_number("axis", -1), whole_number("stash_type", 1)}  # of a norm
TO_FLOAT32 = [whole_number("to", FLOAT32)]


@dataclass(frozen=True)
class Formula:
    """An operator: its domain and name, its attributes, what it reads; and which output it makes.

    An input or a weight is its own `kind`.
    """

    kind: bytes
    attributes: tuple[bytes, ...] = ()
    read: tuple[int, ...] = ()
    place: int = 0


class Formulas:
    """The numbers of formulas."""

    def __init__(self) -> None:
        self._numbers: dict[Formula, int] = {}
        self.all: list[Formula] = []

    def number(self, formula: Formula) -> int:
        """Return the number of a formula, its place in `all`; the first call adds it."""
        if formula not in self._numbers:
            self._numbers[formula] = len(self.all)
            self.all.append(formula)
        return self._numbers[formula]

    def made(
        self, kind: bytes, *read: int, attributes: Iterable[bytes] = (), place: int = 0
    ) -> int:
        """Return the number of an operator's output."""
        order = sorted(read) if kind == b"Add" else read
        return self.number(Formula(kind, tuple(sorted(attributes)), tuple(order), place))

    def constant(self, value: NDArray[np.generic], dtype: int) -> int:
        """Return the number of a tensor that lies in the graph; `dtype` as in onnx.proto."""
        dims = b"".join(number_field(TENSOR_DIMS, size) for size in value.shape)
        raw = bytes_field(TENSOR_RAW, value.tobytes())
        return self.number(Formula(dims + number_field(TENSOR_DTYPE, dtype) + raw))


# Returns the number of what takes the place of an operator's first output, or None to keep it.
Instead: TypeAlias = Callable[[Formula], "int | None"]


def kept(_: Formula) -> None:
    """Let every operator stay."""


class Reading:
    """One graph, read into formulas.

    Attributes:
        values: the number of each value, by its name.
        ends: the numbers of inputs and outputs, and of what else is said of the whole graph.
    """

    def __init__(
        self,
        formulas: Formulas,
        model: bytes,
        instead: Instead = kept,
        *,
        narrow: bool = False,
    ) -> None:
        """Read an ONNX file.

        Args:
            formulas: what numbers them.
            model: the file's bytes.
            instead: see there.
            narrow: whether casts to float32 are no difference, nor constants rounded to float16.

        Raises:
            BundleError: if `model` is not an ONNX file, or lacks inputs of an operator.
        """
        self.formulas, self._instead, self._narrow = formulas, instead, narrow
        self.values: dict[bytes, int] = {b"": OMITTED}
        parts: list[Field] = []
        ends: list[Formula] = []
        for field in read_fields(model):
            if field.number == GRAPH:
                parts += read_fields(field.value)
            elif field.number != MODEL_OPSETS or not text_of(field.value, OPSET_DOMAIN):
                ends.append(Formula(field.whole))  # ONNX Runtime's own operators have one version
        for part in parts:  # all before the first node
            if part.number == INITIALIZER:
                self.values[text_of(part.value, TENSOR_NAME)] = self._tensor(part.value)
            elif part.number == INPUT:
                port = Formula(_port(part.value))
                self.values[text_of(part.value, VALUE_NAME)] = formulas.number(port)
                ends.append(port)
        for part in parts:
            if part.number == NODE:
                self._add(part.value)
            elif part.number == OUTPUT:
                made_by = self._value(text_of(part.value, VALUE_NAME))
                ends.append(Formula(_port(part.value), read=(made_by,)))
            elif part.number not in (INPUT, INITIALIZER, GRAPH_NAME, BETWEEN):
                ends.append(Formula(part.whole))
        self.ends = Counter(map(formulas.number, ends))

    def _value(self, name: bytes) -> int:
        """Return the number of a value; one that nothing makes is told by its name."""
        if name not in self.values:
            return self.formulas.number(Formula(b"? " + name))
        return self.values[name]

    def _tensor(self, tensor: bytes) -> int:
        """Return the number of a tensor. In the graph itself it is a value, whatever its name."""
        fields = list(read_fields(tensor))
        if any(field.number == TENSOR_EXTERNAL for field in fields):
            return self.formulas.number(Formula(tensor))
        kind = number_field(TENSOR_DTYPE, FLOAT32)
        narrow = self._narrow and any(field.whole == kind for field in fields)
        parts = []
        for field in fields:
            if narrow and field.number == TENSOR_RAW:
                parts.append(bytes_field(TENSOR_RAW, _in_float16(field.value)))
            elif narrow and field.number == TENSOR_DTYPE:
                parts.append(number_field(TENSOR_DTYPE, FLOAT16))
            elif field.number != TENSOR_NAME:
                parts.append(field.whole)
        return self.formulas.number(Formula(b"".join(parts)))

    def _add(self, node: bytes) -> None:
        """Number the outputs of a node."""
        fields = list(read_fields(node))
        domain, kind = text_of(node, NODE_DOMAIN), text_of(node, NODE_OP_TYPE)
        kind = domain + b"." + kind if domain else kind
        attributes = [field.value for field in fields if field.number == NODE_ATTRIBUTE]
        read = [self._value(field.value) for field in fields if field.number == NODE_INPUT]
        read = _trimmed(read)
        if len(read) < LEAST.get(kind, 0):
            raise BundleError(
                f"a graph has an operator {kind.decode()} with {len(read)} of at least "
                f"{LEAST[kind]} inputs; export the bundle again"
            )
        names = [field.value for field in fields if field.number == NODE_OUTPUT]
        for place, name in enumerate(names):
            if name:
                self.values[name] = self._made(kind, attributes, read, place)

    def _made(self, kind: bytes, attributes: list[bytes], read: list[int], place: int) -> int:
        """Return the number of an output of an operator."""
        if kind == b"Constant":
            tensor = text_of(b"".join(attributes), ATTRIBUTE_TENSOR)
            return self._tensor(tensor) if tensor else self._kept(kind, attributes, [], 0)
        if kind == b"Cast" and self._narrow and attributes == TO_FLOAT32:
            return read[0]
        if kind == PRODUCT:
            attributes = [one for one in attributes if not one.startswith(ROUNDS)]
            product = self._kept(kind, attributes, _trimmed(read[:BIAS]), 0)
            return self.formulas.made(b"Add", product, *read[BIAS:]) if read[BIAS:] else product
        if kind in SKIP_NORMS and place in (NORMED, SUM):
            norm, last = SKIP_NORMS[kind]
            x, stream, *weights = read[:last]
            added = self.formulas.made(b"Add", x, *read[last:]) if read[last:] else x
            total = self.formulas.made(b"Add", added, stream)
            if place == SUM:
                return total
            kind, read = norm, _trimmed([total, *weights])
        if kind in NORMS:
            attributes = [one for one in attributes if one not in DEFAULTS]
        return self._kept(kind, attributes, read, place)

    def _kept(self, kind: bytes, attributes: list[bytes], read: list[int], place: int) -> int:
        """Return the number of an operator's output, or of what takes its place."""
        order = sorted(read) if kind == b"Add" else read
        formula = Formula(kind, tuple(sorted(attributes)), tuple(order), place)
        found = self._instead(formula)
        return self.formulas.number(formula) if found is None else found


def text_of(message: bytes, number: int) -> bytes:
    """Return the text or message that a field holds; nothing if there is none."""
    texts = (field.value for field in read_fields(message) if field.number == number)
    return next(texts, b"")


def _port(value: bytes) -> bytes:
    """Return an input's or output's name and type, without notes of the export."""
    fields = read_fields(value)
    return b"".join(field.whole for field in fields if field.number in (VALUE_NAME, VALUE_TYPE))


def _trimmed(read: list[int]) -> list[int]:
    """Return the inputs without omitted ones at the end."""
    while read and read[-1] == OMITTED:
        read = read[:-1]
    return read


def _in_float16(raw: bytes) -> bytes:
    """Return float32 numbers in float16; large ones become infinite."""
    with np.errstate(over="ignore"):
        whole = raw[: len(raw) // 4 * 4]  # of a damaged graph, it may end within a number
        return np.frombuffer(whole, np.float32).astype(np.float16).tobytes()
