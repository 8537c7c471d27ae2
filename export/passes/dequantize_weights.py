"""Replace float32 weights by quantised ones, in standard operators that TensorRT reads."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgegpt.runtime.bundle.derived_weights import ALIGNMENT, DERIVED_NAME

from ..quantization import BlockQuantized
from .parts import add_initializer, constant, ensure, readers, require, require_weights

__all__ = ["DequantizeWeights"]

INTEGERS = {4: ir.DataType.INT4, 8: ir.DataType.INT8}


class DequantizeWeights(ir.passes.InPlacePass):
    """Replace MatMul(x, weight) by MatMul(x, Transpose(DequantizeLinear(...))) and a correction.

    TensorRT needs signed integers v and positive scales m. Let u be the stored integer of b bits
    and s the scale. Then the weight (u - 2^(b-1)) s of a block is v m + c:

        s > 0:  v = u - 2^(b-1)          m = s     c = 0
        s < 0:  v = 2^(b-1) - 1 - u      m = -s    c = -s

    so that x W = x (v m) + (sums of x over the blocks) c. Lookups read a float32 table.

    The new initializers have no bytes yet. The bytes are derived from the bundle's weights on the
    machine that needs them, see `edgegpt.runtime.bundle.derived_weights`.
    """

    def __init__(self, quantized: Mapping[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized
        self.end = 0  # of the derived file so far

    def requires(self, model: ir.Model) -> None:
        """Require all weights of `quantized`, the users that `readers` allows, and full blocks."""
        require_weights(model.graph, self.quantized)
        for name, weight in self.quantized.items():
            require(weight.shape[1] % weight.block == 0, f"whole blocks make up the rows of {name}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        for name, weight in self.quantized.items():
            old = graph.initializers.pop(name)
            lookups, products = readers(old)
            for node in lookups:
                table = self._initializer(graph, f"{name}.table", ir.DataType.FLOAT, weight.shape)
                node.replace_input_with(0, table)
            for node in products:
                self._replace(graph, node, name, weight)
            graph.remove(old.consumers(), safe=True)  # the Transpose nodes
        return ir.passes.PassResult(model, bool(self.quantized))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that none of the float32 weights is left."""
        left = sorted(set(self.quantized) & set(model.graph.initializers))
        ensure(not left, f"{', '.join(left)} is no longer there in float32")

    def _replace(self, graph: ir.Graph, old: ir.Node, name: str, weight: BlockQuantized) -> None:
        """Replace `old` by the product with the dequantised weight, and its correction."""
        rows, width = weight.shape
        blocks = width // weight.block
        integers = self._initializer(graph, f"{name}.signed", INTEGERS[weight.bits], (rows, width))
        scales = self._initializer(graph, f"{name}.magnitudes", ir.DataType.FLOAT, (rows, blocks))
        whole = ir.node(
            "DequantizeLinear", [integers, scales], {"axis": 1, "block_size": weight.block}
        )
        turned = ir.node("Transpose", whole.outputs, {"perm": [1, 0]})  # (K, N)
        x, out = old.inputs[0], old.outputs[0]
        product = ir.node("MatMul", [x, turned.outputs[0]], name=old.name)  # (B, T, N)
        value, new = product.outputs[0], [whole, turned, product]
        value.name, value.type, value.shape = out.name, out.type, out.shape
        if not (weight.scales > 0).all():
            new += self._correction(graph, x, value, name, weight)
            value.name = f"{out.name}.uncorrected"
        graph.insert_before(old, new)
        ir.convenience.replace_nodes_and_values(graph, old, [old], [], [out], new[-1].outputs)

    def _correction(
        self,
        graph: ir.Graph,
        x: ir.Value | None,
        product: ir.Value,
        name: str,
        weight: BlockQuantized,
    ) -> list[ir.Node]:
        """Return nodes; the last one adds (sums of x over the blocks) c to `product`."""
        rows, blocks = weight.scales.shape
        offsets = self._initializer(graph, f"{name}.corrections", ir.DataType.FLOAT, (blocks, rows))
        cuts = np.array([0, 0, blocks, weight.block])
        shape = constant(graph, f"cut.{blocks}x{weight.block}", cuts)
        axis = constant(graph, "axis.3", np.array([3]))
        cut = ir.node("Reshape", [x, shape])  # (B, T, G, block)
        sums = ir.node("ReduceSum", [cut.outputs[0], axis], {"keepdims": 0})  # (B, T, G)
        rest = ir.node("MatMul", [sums.outputs[0], offsets])  # (B, T, N)
        both = ir.node("Add", [product, rest.outputs[0]])
        both.outputs[0].dtype = ir.DataType.FLOAT
        return [cut, sums, rest, both]

    def _initializer(
        self, graph: ir.Graph, name: str, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.Value:
        """Register an initializer whose bytes are the next ones of the derived file."""
        if name in graph.initializers:
            return graph.initializers[name]
        size = int(np.prod(shape)) * dtype.bitwidth // 8
        tensor = ir.ExternalTensor(
            location=DERIVED_NAME,
            offset=self.end,
            length=size,
            dtype=dtype,
            shape=ir.Shape(shape),
            name=name,
        )
        self.end += -(-size // ALIGNMENT) * ALIGNMENT
        return add_initializer(graph, name, tensor)
