"""The part of the ONNX format that engines need, without the onnx package.

An ONNX file is a protobuf message. This module lists the graph's nodes, lists the weights that lie
in other files, and replaces symbolic sizes by numbers, because TensorRT's parser refuses a cache
whose number of slots is symbolic.

Field numbers are those of onnx.proto.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import BundleError
from .protobuf import BYTES, bytes_field, number_field, read_fields

__all__ = [
    "GRAPH",
    "INITIALIZER",
    "NODE",
    "NODE_ATTRIBUTE",
    "NODE_DOMAIN",
    "NODE_INPUT",
    "NODE_NAME",
    "NODE_OP_TYPE",
    "NODE_OUTPUT",
    "TENSOR_EXTERNAL",
    "TENSOR_NAME",
    "TENSOR_RAW",
    "VALUES",
    "External",
    "Node",
    "edited",
    "external_tensors",
    "graph_nodes",
    "with_sizes",
]

GRAPH, NODE, INITIALIZER = 7, 1, 5
VALUES = (11, 12, 13)  # inputs, outputs, and value_info of intermediate values
# Field numbers from the model to a dimension: graph, value, type, tensor type, shape, dimension.
DIMENSION_PATH = ((GRAPH,), VALUES, (2,), (1,), (2,), (1,))
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
SIZE_VALUE, SIZE_SYMBOL = 1, 2
TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL = 8, 9, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2


@dataclass(frozen=True)
class Node:
    """A node of the graph; an omitted input or output has an empty name."""

    op_type: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class External:
    """An initializer whose `length` bytes lie in another file, at `offset`."""

    name: str
    location: str
    offset: int
    length: int


def graph_nodes(model: bytes) -> list[Node]:
    """Return the nodes of the model's graph in the file's order.

    Raises:
        BundleError: if `model` is not a protobuf message.
    """
    return [
        _node(field.value)
        for graph in read_fields(model)
        if graph.number == GRAPH
        for field in read_fields(graph.value)
        if field.number == NODE
    ]


def external_tensors(model: bytes) -> list[External]:
    """Return the initializers of the model's graph that lie in other files.

    Raises:
        BundleError: if `model` is not a protobuf message.
    """
    tensors = [
        _external(field.value)
        for graph in read_fields(model)
        if graph.number == GRAPH
        for field in read_fields(graph.value)
        if field.number == INITIALIZER
    ]
    return [tensor for tensor in tensors if tensor is not None]


def with_sizes(model: bytes, sizes: Mapping[str, int]) -> bytes:
    """Return the model with the symbols of `sizes` replaced by numbers, and all else unchanged.

    Raises:
        BundleError: if `model` is not a protobuf message.
    """
    numbers = {symbol.encode(): number_field(SIZE_VALUE, size) for symbol, size in sizes.items()}

    def fix(dimension: bytes) -> bytes:
        parts = []
        for field in read_fields(dimension):
            is_symbol = field.number == SIZE_SYMBOL
            parts.append(numbers.get(field.value, field.whole) if is_symbol else field.whole)
        return b"".join(parts)

    return edited(model, DIMENSION_PATH, fix)


def edited(
    message: bytes, path: tuple[tuple[int, ...], ...], edit: Callable[[bytes], bytes]
) -> bytes:
    """Return `message` with `edit` applied to every nested message at `path`."""
    if not path:
        return edit(message)
    parts = []
    for field in read_fields(message):
        if field.number in path[0] and field.wire == BYTES:
            parts.append(bytes_field(field.number, edited(field.value, path[1:], edit)))
        else:
            parts.append(field.whole)
    return b"".join(parts)


def _node(message: bytes) -> Node:
    texts: dict[int, list[str]] = {}
    for field in read_fields(message):
        if field.wire == BYTES and field.number in (
            NODE_INPUT,
            NODE_OUTPUT,
            NODE_NAME,
            NODE_OP_TYPE,
            NODE_DOMAIN,
        ):
            texts.setdefault(field.number, []).append(field.value.decode(errors="replace"))
    op_type, domain, name = (
        "".join(texts.get(number, [])) for number in (NODE_OP_TYPE, NODE_DOMAIN, NODE_NAME)
    )
    return Node(op_type, domain, name, texts.get(NODE_INPUT, []), texts.get(NODE_OUTPUT, []))


def _external(message: bytes) -> External | None:
    """Return where a TensorProto's bytes lie; None if the message itself holds them."""
    name, entries = "", {}
    for field in read_fields(message):
        if field.number == TENSOR_NAME and field.wire == BYTES:
            name = field.value.decode(errors="replace")
        elif field.number == TENSOR_EXTERNAL and field.wire == BYTES:
            pair = {
                part.number: part.value.decode(errors="replace")
                for part in read_fields(field.value)
            }
            entries[pair.get(ENTRY_KEY)] = pair.get(ENTRY_VALUE, "")
    if not entries:
        return None
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", ""))
    except ValueError as error:
        raise BundleError(f"the graph does not say where its weight {name} lies") from error
    return External(name, entries.get("location", ""), offset, length)
