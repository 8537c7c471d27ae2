"""Let long prompts be multiplied in int8: weights by the column, activations by the row."""

import numpy as np
import onnx_ir as ir

from .quantize_weights import DOMAIN, add_initializer

__all__ = ["QuantizeActivations"]

LARGEST = 127.0
MIDDLE = 128  # the uint8 that stands for 0
SMALLEST_ROW = 1e-30  # a row of zeros is divided by this, not by 0


class QuantizeActivations(ir.passes.InPlacePass):
    """Replace MatMulNBits by a product of int8 numbers, three times as fast for many rows.

    Each row of activations is divided by its largest magnitude and rounded to 255 steps; the
    product is multiplied by the same number again. So a token's result is its own: neither its
    neighbours nor a range from calibration have a part in it. Weights get one scale a column. They
    are computed from the blocks by constant nodes, which ONNX Runtime folds when it loads the
    graph: the file holds each weight once.

    Precondition: weights are quantised without zero points. The head, which sees few rows, stays as
    it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        emit = _Emitter(graph)
        last = graph.outputs[0].producer()
        modified = False
        for node in list(graph):
            if node.op_type == "MatMulNBits" and node is not last:
                emit.replace(node)
                modified = True
        return ir.passes.PassResult(model, modified)


class _Emitter:
    """Adds nodes to a graph; constants and quantised activations that are equal are shared."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.constants: dict[str, ir.Value] = {}
        self.rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def replace(self, node: ir.Node) -> None:
        """Put the int8 product in the place of one MatMulNBits."""
        self.place = node
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        rounded, largest = self.quantized_rows(node.inputs[0])
        weight, scale = self.columns(node)
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

    def columns(self, node: ir.Node) -> tuple[ir.Value, ir.Value]:
        """Return the weight of a MatMulNBits as int8 [K, N], and its scales [N].

        A column's scale follows from its blocks' scales alone, as if some block used its grid to
        the end; so the weights themselves are passed over only a few times.
        """
        values, scales = node.inputs[1:3]  # (N, G, block), (N, G)
        bits, rows, width = (node.attributes[name].as_int() for name in ("bits", "N", "K"))
        middle = 2.0 ** (bits - 1)
        last = self.constant("last_axis", np.array([-1]))
        if bits == 4:
            values = self.nibbles(values, [rows, scales.shape[1], -1])
        largest = self.node("ReduceMax", [self.node("Abs", [scales]), last])  # (N, 1)
        largest = self.node("Max", [largest, self.constant("smallest", SMALLEST_ROW)])
        scale = self.node("Mul", [largest, self.constant(f"steps{bits}", middle / LARGEST)])
        ratio = self.node("Unsqueeze", [self.node("Div", [scales, scale]), last])  # (N, G, 1)
        steps = self.node("Cast", [values], {"to": ir.DataType.FLOAT})
        steps = self.node("Sub", [steps, self.constant(f"zero{bits}", middle)])
        steps = self.node("Round", [self.node("Mul", [steps, ratio])])
        integers = self.node("Cast", [steps], {"to": ir.DataType.INT8})
        shape = self.constant(f"rows{rows}", np.array([rows, -1]))
        integers = self.node("Reshape", [integers, shape])
        ends = [self.constant(f"to{n}", np.array([n])) for n in (0, width, 1)]
        integers = self.node("Slice", [integers, *ends])  # (N, K): padding is cut off
        return (
            self.node("Transpose", [integers], {"perm": [1, 0]}),
            self.node("Squeeze", [scale, last]),
        )

    def nibbles(self, packed: ir.Value, shape: list[int]) -> ir.Value:
        """Return the two values of each byte, the low half first, reshaped to `shape`."""
        last = self.constant("last_axis", np.array([-1]))
        low = self.node("BitwiseAnd", [packed, self.constant("low", np.uint8(15))])
        four = self.constant("four", np.uint8(4))
        high = self.node("BitShift", [packed, four], {"direction": "RIGHT"})
        pairs = [self.node("Unsqueeze", [half, last]) for half in (low, high)]
        both = self.node("Concat", pairs, {"axis": -1})
        name = "shape" + "x".join(map(str, shape))
        return self.node("Reshape", [both, self.constant(name, np.array(shape))])

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
