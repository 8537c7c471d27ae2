"""Put quantised weights in place of float32 ones, in standard operators that TensorRT reads."""

import numpy as np
import onnx_ir as ir

from edgegpt.runtime.bundle.derived_weights import ALIGNMENT, DERIVED_NAME

from ..quantization import BlockQuantized

__all__ = ["DequantizeWeights"]

INTEGERS = {4: ir.DataType.INT4, 8: ir.DataType.INT8}


class DequantizeWeights(ir.passes.InPlacePass):
    """Replace MatMul(x, weight) by MatMul(x, Transpose(DequantizeLinear(...))) and a correction.

    TensorRT wants signed integers v, zero points of 0 and positive scales m. With u, s and z the
    stored integer of b bits, scale and zero point, the weight (u - z) s of a block is v m + c:

        s > 0:  v = u - 2^(b-1)          m = s     c = s (2^(b-1) - z)
        s < 0:  v = 2^(b-1) - 1 - u      m = -s    c = -s (z - 2^(b-1) + 1)

    so that x W = x (v m) + (sums of x over the blocks) c. Lookups read a float32 table.

    The new initializers have no bytes yet: they are derived from the bundle's weights where they
    are needed, see `edgegpt.runtime.bundle.derived_weights`.

    Precondition: the weights of `quantized` are the second inputs of their MatMul nodes, as
    [in, out]; a tied embedding is read by a Gather and through a Transpose. Blocks divide widths.
    """

    def __init__(self, quantized: dict[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized
        self.end = 0  # of the file so far

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        for name, weight in self.quantized.items():
            old = graph.initializers[name]
            users = [node for node, _ in old.uses()]
            graph.initializers.pop(name)
            for node in users:
                if node.op_type == "Gather":
                    table = self._initializer(
                        graph, f"{name}.table", ir.DataType.FLOAT, weight.shape
                    )
                    node.replace_input_with(0, table)
                elif node.op_type == "Transpose":
                    ((product, _),) = node.outputs[0].uses()
                    self._replace(graph, product, name, weight)
                    graph.remove(node, safe=True)
                else:
                    self._replace(graph, node, name, weight)
        return ir.passes.PassResult(model, bool(self.quantized))

    def _replace(
        self, graph: ir.Graph, product: ir.Node, name: str, weight: BlockQuantized
    ) -> None:
        """Let `product` multiply by the dequantised weight, and add the correction."""
        rows, width = weight.shape
        blocks = width // weight.block
        integers = self._initializer(graph, f"{name}.signed", INTEGERS[weight.bits], (rows, width))
        scales = self._initializer(graph, f"{name}.magnitudes", ir.DataType.FLOAT, (rows, blocks))
        whole = ir.node(
            "DequantizeLinear", [integers, scales], {"axis": 1, "block_size": weight.block}
        )
        turned = ir.node("Transpose", whole.outputs, {"perm": [1, 0]})  # (K, N)
        graph.insert_before(product, [whole, turned])
        product.replace_input_with(1, turned.outputs[0])
        if weight.zero_points is None and (weight.scales > 0).all():
            return
        offsets = self._initializer(graph, f"{name}.corrections", ir.DataType.FLOAT, (blocks, rows))
        shape = _constant(graph, f"cut.{blocks}x{weight.block}", [0, 0, blocks, weight.block])
        axis = _constant(graph, "axis.3", [3])
        x, out = product.inputs[0], product.outputs[0]
        cut = ir.node("Reshape", [x, shape])  # (B, T, G, block)
        sums = ir.node("ReduceSum", [cut.outputs[0], axis], {"keepdims": 0})  # (B, T, G)
        rest = ir.node("MatMul", [sums.outputs[0], offsets])  # (B, T, N)
        both = ir.node("Add", [out, rest.outputs[0]])
        graph.insert_after(product, [cut, sums, rest, both])
        value, old = both.outputs[0], out.name
        value.dtype, value.shape = ir.DataType.FLOAT, out.shape
        uses = [(node, index) for node, index in out.uses() if node is not both]
        for node, index in uses:
            node.replace_input_with(index, value)
        if out.is_graph_output():
            graph.outputs[list(graph.outputs).index(out)] = value
        out.name, value.name = f"{old}.uncorrected", old

    def _initializer(
        self, graph: ir.Graph, name: str, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.Value:
        """Register an initializer whose bytes come next in the derived file."""
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
        value = ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    """Return the initializer of that name, int64."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.array(numbers, dtype=np.int64), name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
