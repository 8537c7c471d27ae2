"""Parts that the passes share: conditions, operands, initializers, and the readers of a weight."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..quantization import BlockQuantized

__all__ = [
    "MICROSOFT",
    "add_initializer",
    "cast",
    "constant",
    "ensure",
    "operand",
    "readers",
    "require",
    "require_weights",
]

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators


def require(holds: bool, what: str) -> None:
    """Refuse a graph that a pass cannot edit; `what` names the condition."""
    if not holds:
        raise ir.passes.PreconditionError(f"the graph is not as the pass needs it: {what}")


def ensure(holds: bool, what: str) -> None:
    """Refuse the result of a pass; `what` names the condition."""
    if not holds:
        raise ir.passes.PostconditionError(f"the pass did not do what it is for: {what}")


def operand(node: ir.Node, place: int) -> ir.Value:
    """Return an input that the operator requires."""
    value = node.inputs[place]
    assert value is not None
    return value


def add_initializer(
    graph: ir.Graph, name: str, data: NDArray[np.generic] | ir.TensorProtocol
) -> ir.Value:
    """Register `data` as the initializer `name`."""
    tensor = ir.tensor(data, name=name) if isinstance(data, np.ndarray) else data
    value = ir.val(name, const_value=tensor)
    graph.register_initializer(value)
    return value


def cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return an initializer in another type, cast by a node at the beginning of the graph."""
    node = ir.node("Cast", [value], {"to": int(dtype)})
    (result,) = node.outputs
    result.dtype, result.shape = dtype, value.shape
    graph.insert_before(graph[0], node)
    return result


def constant(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    """Return the initializer `name`; the first call registers it with `data`."""
    return graph.initializers.get(name) or add_initializer(graph, name, data)


def readers(weight: ir.Value) -> tuple[list[ir.Node], list[ir.Node]]:
    """Return the Gather nodes that look up rows of a weight, and the MatMul nodes that read it.

    A MatMul reads the weight as its second input, directly or through a Transpose of its own.
    """
    lookups, products = [], []
    for node, place in weight.uses():
        if node.op_type == "Gather" and place == 0:
            lookups.append(node)
            continue
        if node.op_type == "Transpose":
            uses = node.outputs[0].uses()
            require(len(uses) == 1, f"nothing shares the Transpose of {weight.name}")
            ((node, place),) = uses
        require(
            node.op_type == "MatMul" and place == 1,
            f"{weight.name} is looked up by Gather or the second input of a MatMul",
        )
        products.append(node)
    return lookups, products


def require_weights(graph: ir.Graph, quantized: Mapping[str, BlockQuantized]) -> None:
    """Require that the graph has these weights, and that `readers` accepts all their uses."""
    for name, weight in quantized.items():
        require(name in graph.initializers, f"it has the weight {name}")
        value = graph.initializers[name]
        sizes = sorted(value.shape.numpy()) if value.shape is not None else []
        require(sizes == sorted(weight.shape), f"{name} has the sizes {weight.shape}")
        readers(value)
