"""Multiply in int8, with one scale per weight column and per activation row."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..lazy_weights import LazyWeight
from ..quantization import BlockQuantized, whole_rows
from .parts import MICROSOFT, add_initializer, constant, ensure, operand, require
from .store_columns import columns_of, int8_columns

__all__ = ["QuantizeActivations"]

LARGEST = 127.0
MIDDLE = 128  # the uint8 that stands for 0
SMALLEST_ROW = 1e-30  # divides a row of zeros in place of 0


class QuantizeActivations(ir.passes.InPlacePass):
    """Replace MatMulNBits, or MatMul with columns of `StoreColumns`, by a product of int8 numbers.

    For many rows, that is three times as fast as MatMulNBits.

    Each row of activations is divided by its largest magnitude and rounded to 255 steps. The
    product is multiplied by the same magnitude again. A token's result therefore depends neither on
    its neighbours nor on a range from calibration. Weights in blocks are stored a second time, as
    one byte each with one scale per column, because computing this copy from the blocks at load
    time would need many times that memory. The head of a prompt sees few rows, so it stays as it is
    unless `head` says otherwise.
    """

    def __init__(self, quantized: Mapping[str, BlockQuantized], *, head: bool = False) -> None:
        super().__init__()
        self.quantized, self.head = quantized, head

    def requires(self, model: ir.Model) -> None:
        """Require that every product to replace reads a weight of `quantized`."""
        for node in self._products(model.graph):
            name = operand(node, 1).name
            known = node.op_type == "MatMul" or name in self.quantized
            require(known, f"{name} is one of the quantised weights")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        emit, found = _Emitter(model.graph, self.quantized), self._products(model.graph)
        for node in found:
            emit.replace(node)
        if found:
            model.opset_imports[MICROSOFT] = 1
            RemoveUnusedNodesPass()(model)  # those that made floats of columns
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that none of them is left."""
        left = [str(operand(node, 1).name) for node in self._products(model.graph)]
        ensure(not left, f"no activations meet the blocks of {', '.join(left)}")

    def _products(self, graph: ir.Graph) -> list[ir.Node]:
        """Return the nodes that multiply by quantised weights, with or without the head."""
        head = None if self.head else graph.outputs[0].producer()
        return [node for node in graph if _is_quantised(node) and node is not head]


def _is_quantised(node: ir.Node) -> bool:
    if node.op_type == "MatMul":
        return columns_of(node) is not None
    return node.op_type == "MatMulNBits"


class _Emitter:
    """Adds nodes to a graph, and shares equal constants and equal quantised activations."""

    def __init__(self, graph: ir.Graph, quantized: Mapping[str, BlockQuantized]) -> None:
        self.graph, self.quantized = graph, quantized
        self.rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def replace(self, node: ir.Node) -> None:
        """Replace one product by that of int8 numbers."""
        self.place, stored = node, columns_of(node) if node.op_type == "MatMul" else None
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        rounded, largest = self.quantized_rows(operand(node, 0))
        weight, scale = stored or self.columns(str(operand(node, 1).name))
        step = self.constant("step", np.float32(1 / LARGEST))
        middle = self.constant("middle", np.uint8(MIDDLE))
        product = self.node(
            "MatMulIntegerToFloat", [rounded, weight, step, scale, middle], domain=MICROSOFT
        )
        out = self.node("Mul", [product, largest])
        if bias is not None:
            out = self.node("Add", [out, bias])
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], [], node.outputs, [out])

    def quantized_rows(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return x [B, T, K], divided by each row's largest magnitude, as uint8; and the latter."""
        if x not in self.rows:
            magnitude = self.node("Abs", [x])
            axes = self.constant("last_axis", np.array([-1]))
            smallest = self.constant("smallest", np.float32(SMALLEST_ROW))
            largest = self.node("ReduceMax", [magnitude, axes])  # (B, T, 1)
            largest = self.node("Max", [largest, smallest])
            unit = self.node("Div", [x, largest])
            step = self.constant("step", np.float32(1 / LARGEST))
            middle = self.constant("middle", np.uint8(MIDDLE))
            self.rows[x] = self.node("QuantizeLinear", [unit, step, middle]), largest
        return self.rows[x]

    def columns(self, name: str) -> tuple[ir.Value, ir.Value]:
        """Return the weight `name` as int8 [K, N], and one scale per column [N]."""
        weight = self.quantized[name]
        stored, shape = f"{name}.columns", weight.shape[::-1]
        tensor = LazyWeight(
            lambda _: int8_columns(whole_rows(weight)),
            ir.DataType.INT8,
            shape,
            name=stored,
            key=("columns",),
        )
        columns = add_initializer(self.graph, stored, tensor)
        scales = whole_rows(weight).scales[:, 0]  # (N,)
        return columns, add_initializer(self.graph, f"{name}.column_scales", scales)

    def node(self, kind: str, inputs: list[ir.Value], domain: str = "") -> ir.Value:
        """Add a node before the node that is being replaced; return its output."""
        node = ir.node(kind, inputs, domain=domain)
        self.graph.insert_before(self.place, node)
        return node.outputs[0]

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> ir.Value:
        """Return the constant `name`; the first call registers `value` as it."""
        return constant(self.graph, f"int8.{name}", np.asarray(value))
