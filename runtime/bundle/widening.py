"""Make a float16 graph compute in float32, without the onnx package.

A CPU gains nothing from float16 but bytes on disk. On ARM cores with float16 arithmetic ONNX
Runtime would even add up its products in float16, which errs by up to 5e-2 of the largest logit.
Elsewhere it casts to float32 around each operator, so weights are float32 in memory there, too.

Field numbers are those of onnx.proto.
"""

from dataclasses import replace

from .graph import Graph, Port
from .onnx_file import (
    GRAPH,
    INITIALIZER,
    NODE,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_NAME,
    VALUES,
    edited,
)
from .protobuf import Field, bytes_field, number_field, read_fields, text_field
from .vocabulary import Dtype

__all__ = ["wide_graph", "wide_model", "with_caches"]

# From the graph to a tensor type, whose first field is the element type.
ELEMENT_PATH, ELEMENT_TYPE = (VALUES, (2,), (1,)), 1
TENSOR_DTYPE = 2
ATTRIBUTE_NAME, ATTRIBUTE_NUMBER, ATTRIBUTE_TENSOR, ATTRIBUTE_KIND, IS_NUMBER = 1, 3, 5, 20, 2
FLOAT32, FLOAT16 = 1, 10  # element types


def wide_graph(graph: Graph) -> Graph:
    """Return what the manifest says of a graph as it is true of its `wide_model`."""

    def wide(port: Port) -> Port:
        return replace(port, dtype="float32") if port.dtype == "float16" else port

    return replace(
        graph,
        inputs=[wide(port) for port in graph.inputs],
        outputs=[wide(port) for port in graph.outputs],
    )


def with_caches(graph: Graph, dtype: Dtype) -> Graph:
    """Return what the manifest says of a graph, with keys and values of another type."""

    def cached(port: Port) -> Port:
        return replace(port, dtype=dtype) if port.role in ("cache", "source") else port

    return replace(
        graph,
        inputs=[cached(port) for port in graph.inputs],
        outputs=[cached(port) for port in graph.outputs],
    )


def wide_model(model: bytes) -> bytes:
    """Return a float16 model as one that computes in float32.

    Its weights and constants stay as they are, and each is cast before it is used. Inputs, outputs
    and all values between are float32.

    Raises:
        BundleError: if `model` is not a protobuf message.
    """
    return edited(model, ((GRAPH,),), _graph_in_float32)


def _graph_in_float32(graph: bytes) -> bytes:
    narrow, wide = number_field(ELEMENT_TYPE, FLOAT16), number_field(ELEMENT_TYPE, FLOAT32)
    graph = edited(graph, ELEMENT_PATH, lambda kind: _replaced(kind, narrow, wide))
    fields = list(read_fields(graph))
    tensors = [field for field in fields if field.number == INITIALIZER]
    weights = [_text(tensor.value, TENSOR_NAME) for tensor in tensors if _is_float16(tensor.value)]
    parts = [_cast(name) for name in weights]  # the first nodes, since others need them
    for field in fields:
        if field.number == INITIALIZER and _is_float16(field.value):
            parts.append(_renamed(field, TENSOR_NAME))
        elif field.number == NODE:
            parts += _node_in_float32(field)
        else:
            parts.append(field.whole)
    return b"".join(parts)


def _node_in_float32(field: Field) -> list[bytes]:
    """Return the nodes that take the place of one: casts make float32, constants are cast."""
    node = field.value
    kind = _text(node, NODE_OP_TYPE)
    if kind == "Cast":
        narrow, wide = (number_field(ATTRIBUTE_NUMBER, to) for to in (FLOAT16, FLOAT32))
        path = ((NODE_ATTRIBUTE,),)
        return [bytes_field(NODE, edited(node, path, lambda to: _replaced(to, narrow, wide)))]
    values = [
        part.value
        for attribute in read_fields(node)
        if kind == "Constant" and attribute.number == NODE_ATTRIBUTE
        for part in read_fields(attribute.value)
        if part.number == ATTRIBUTE_TENSOR
    ]
    if not any(_is_float16(value) for value in values):
        return [field.whole]
    return [_renamed(field, NODE_OUTPUT), _cast(_text(node, NODE_OUTPUT))]


def _narrow(name: str) -> str:
    """Return the new name of a float16 value; its old name is that of the float32 value."""
    return f"{name}.float16"


def _cast(name: str) -> bytes:
    """Return the node that makes the float32 value `name`."""
    attribute = [
        text_field(ATTRIBUTE_NAME, "to"),
        number_field(ATTRIBUTE_NUMBER, FLOAT32),
        number_field(ATTRIBUTE_KIND, IS_NUMBER),
    ]
    node = [
        text_field(NODE_INPUT, _narrow(name)),
        text_field(NODE_OUTPUT, name),
        text_field(NODE_NAME, f"{name}.float32"),
        text_field(NODE_OP_TYPE, "Cast"),
        bytes_field(NODE_ATTRIBUTE, b"".join(attribute)),
    ]
    return bytes_field(NODE, b"".join(node))


def _renamed(field: Field, number: int) -> bytes:
    """Return a field with a message whose text `number` is now the name of a float16 value."""
    old = _text(field.value, number)
    new = _replaced(field.value, text_field(number, old), text_field(number, _narrow(old)))
    return bytes_field(field.number, new)


def _is_float16(tensor: bytes) -> bool:
    wanted = number_field(TENSOR_DTYPE, FLOAT16)
    return any(field.whole == wanted for field in read_fields(tensor))


def _text(message: bytes, number: int) -> str:
    """Return the first text of that field; "" if there is none."""
    texts = (field.value for field in read_fields(message) if field.number == number)
    return next(texts, b"").decode(errors="replace")


def _replaced(message: bytes, old: bytes, new: bytes) -> bytes:
    """Return the message with each field `old` replaced by the field `new`."""
    fields = (field.whole for field in read_fields(message))
    return b"".join(new if field == old else field for field in fields)
