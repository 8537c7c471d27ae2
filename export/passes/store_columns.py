"""Replace float32 weights by int8 columns with one scale each, in standard operators."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..lazy_weights import LazyWeight
from ..quantization import BlockQuantized
from .parts import add_initializer, constant, ensure, operand, readers, require, require_weights

__all__ = ["StoreColumns", "columns_of", "int8_columns"]


def int8_columns(weight: BlockQuantized) -> NDArray[np.int8]:
    """Return a weight [N, K] whose rows are one block each as int8 [K, N]."""
    rows = weight.values[:, 0, : weight.shape[1]] ^ np.uint8(0x80)  # (N, K); 0x80 stands for 0
    return np.ascontiguousarray(rows.T).view(np.int8)  # (K, N)


def columns_of(product: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return the columns that a MatMul of `StoreColumns` multiplies by, and their scales."""
    weights = operand(product, 1).producer()
    if weights is None or weights.op_type != "Mul":
        return None
    numbers = operand(weights, 0).producer()
    if numbers is None or numbers.op_type != "Cast":
        return None
    return operand(numbers, 0), operand(weights, 1)


class StoreColumns(ir.passes.InPlacePass):
    """Let MatMul multiply by Mul(Cast(columns), scales), and look up rows among the columns.

    The columns int8 [K, N] and their scales [N] are the only copy of a weight. The activations stay
    float32; `QuantizeActivations` lets the same columns meet int8. With DequantizeLinear in place
    of the two nodes, ONNX Runtime would round the activations (1.31, on a CPU).
    """

    def __init__(self, quantized: Mapping[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized

    def requires(self, model: ir.Model) -> None:
        """Require all weights of `quantized`, the users that `readers` allows, and whole rows."""
        require_weights(model.graph, self.quantized)
        for name, weight in self.quantized.items():
            whole = weight.bits == 8 and weight.scales.shape[1] == 1
            require(whole, f"the rows of {name} are one block of 8 bits each")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        for name, weight in self.quantized.items():
            old = model.graph.initializers.pop(name)
            lookups, products = readers(old)
            columns, scales = _stored(model.graph, name, weight)
            for node in lookups:
                _look_up(model.graph, node, columns, scales)
            for node in products:
                numbers = ir.node("Cast", [columns], {"to": int(ir.DataType.FLOAT)})
                weights = ir.node("Mul", [numbers.outputs[0], scales])  # (K, N)
                model.graph.insert_before(node, [numbers, weights])
                node.replace_input_with(1, weights.outputs[0])
            model.graph.remove(old.consumers(), safe=True)  # the Transpose nodes
        return ir.passes.PassResult(model, bool(self.quantized))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that all weights of `quantized` are int8 now."""
        for name in self.quantized:
            dtype = model.graph.initializers[name].dtype
            ensure(dtype == ir.DataType.INT8, f"{name} is int8, not {dtype}")


def _stored(graph: ir.Graph, name: str, weight: BlockQuantized) -> tuple[ir.Value, ir.Value]:
    """Return the initializers of a weight's columns and of their scales."""
    shape = weight.shape[::-1]  # (K, N)
    tensor = LazyWeight(
        lambda _: int8_columns(weight), ir.DataType.INT8, shape, name=name, key=("columns",)
    )
    columns = add_initializer(graph, name, tensor)
    return columns, add_initializer(graph, f"{name}.scales", weight.scales[:, 0])


def _look_up(graph: ir.Graph, old: ir.Node, columns: ir.Value, scales: ir.Value) -> None:
    """Replace Gather(table, ids [B, T]) by a lookup of columns, dequantised, [B, T, K]."""
    ids = old.inputs[1]
    last = constant(graph, "axis.last", np.array([-1]))
    found = ir.node("Gather", [columns, ids], {"axis": 1})  # (K, B, T)
    turned = ir.node("Transpose", found.outputs, {"perm": [1, 2, 0]})  # (B, T, K)
    integers = ir.node("Cast", turned.outputs, {"to": int(ir.DataType.FLOAT)})
    own = ir.node("Gather", [scales, ids], {"axis": 0})  # (B, T)
    wide = ir.node("Unsqueeze", [own.outputs[0], last])  # (B, T, 1)
    rows = ir.node("Mul", [integers.outputs[0], wide.outputs[0]])
    new = [found, turned, integers, own, wide, rows]
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, rows.outputs)
