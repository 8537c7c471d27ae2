"""Let long prompts be multiplied in int8: weights by the column, activations by the row."""

import numpy as np
import onnx_ir as ir

from ..quantization import BlockQuantized
from .quantize_weights import DOMAIN, add_initializer

__all__ = ["QuantizeActivations"]

LARGEST = 127.0
MIDDLE = 128  # the uint8 that stands for 0
SMALLEST_ROW = 1e-30  # a row of zeros is divided by this, not by 0


class QuantizeActivations(ir.passes.InPlacePass):
    """Replace MatMulNBits by a product of int8 numbers, three times as fast for many rows.

    Each row of activations is divided by its largest magnitude and rounded to 255 steps; the
    product is multiplied by the same number again. So a token's result is its own: neither its
    neighbours nor a range from calibration have a part in it. Weights get one scale a column, as
    a second copy of a byte each: computing it from the blocks when the graph is loaded would need
    many times that memory.

    Precondition: the products are by `quantized` weights. The head, which sees few rows, stays as
    it is.
    """

    def __init__(self, quantized: dict[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        emit = _Emitter(graph, self.quantized)
        last = graph.outputs[0].producer()
        modified = False
        for node in list(graph):
            if node.op_type == "MatMulNBits" and node is not last:
                emit.replace(node)
                modified = True
        return ir.passes.PassResult(model, modified)


class _Emitter:
    """Adds nodes to a graph; constants and quantised activations that are equal are shared."""

    def __init__(self, graph: ir.Graph, quantized: dict[str, BlockQuantized]) -> None:
        self.graph, self.quantized = graph, quantized
        self.constants: dict[str, ir.Value] = {}
        self.rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def replace(self, node: ir.Node) -> None:
        """Put the int8 product in the place of one MatMulNBits."""
        self.place = node
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        rounded, largest = self.quantized_rows(node.inputs[0])
        weight, scale = self.columns(str(node.inputs[1].name))
        step = self.constant("step", 1 / LARGEST)
        middle = self.constant("middle", np.uint8(MIDDLE))
        product = self.node(
            "MatMulIntegerToFloat", [rounded, weight, step, scale, middle], domain=DOMAIN
        )
        out = self.node("Mul", [product, largest])
        if bias is not None:
            out = self.node("Add", [out, bias])
        old = node.outputs[0]
        out.dtype, out.shape, name = ir.DataType.FLOAT, old.shape, old.name
        ir.convenience.replace_all_uses_with(old, out)
        self.graph.remove(node, safe=True)
        out.name = name

    def quantized_rows(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return x [B, T, K] divided by its rows' largest magnitudes as uint8, and these."""
        if x not in self.rows:
            magnitude = self.node("Abs", [x])
            axes = self.constant("last_axis", np.array([-1]))
            largest = self.node("ReduceMax", [magnitude, axes])  # (B, T, 1)
            largest = self.node("Max", [largest, self.constant("smallest", SMALLEST_ROW)])
            unit = self.node("Div", [x, largest])
            step = self.constant("step", 1 / LARGEST)
            middle = self.constant("middle", np.uint8(MIDDLE))
            self.rows[x] = self.node("QuantizeLinear", [unit, step, middle]), largest
        return self.rows[x]

    def columns(self, name: str) -> tuple[ir.Value, ir.Value]:
        """Return the weight `name` as int8 [K, N] with one scale a column [N]."""
        weight = self.quantized[name].dequantized()  # (N, K)
        scale = np.maximum(np.abs(weight).max(axis=1), SMALLEST_ROW) / LARGEST  # (N,)
        integers = np.rint(weight / scale[:, None]).astype(np.int8)
        columns = add_initializer(self.graph, f"{name}.columns", np.ascontiguousarray(integers.T))
        scales = scale.astype(np.float32)
        return columns, add_initializer(self.graph, f"{name}.column_scales", scales)

    def node(
        self, kind: str, inputs: list[ir.Value], attributes: dict | None = None, domain: str = ""
    ) -> ir.Value:
        """Add a node before the one that is being replaced; return its output."""
        node = ir.node(kind, inputs, attributes, domain=domain)
        self.graph.insert_before(self.place, node)
        return node.outputs[0]

    def constant(self, name: str, value: object) -> ir.Value:
        if name not in self.constants:
            array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
            self.constants[name] = add_initializer(self.graph, f"int8.{name}", array)
        return self.constants[name]
