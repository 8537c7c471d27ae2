"""Replace weights by quantised ones, in ONNX Runtime's operators.

A product computes in the type that the weight had; its scales are stored in float32 and cast to it.
"""

from collections.abc import Mapping

import onnx_ir as ir

from ..quantization import BlockQuantized
from .parts import MICROSOFT, add_initializer, cast, ensure, operand, readers, require_weights

__all__ = ["ROWS_SUFFIX", "QuantizeWeights"]

ROWS_SUFFIX = ".rows"  # of a weight's second name, for lookups of rows
# Activations are rounded to int8 block by block, too, because the fast kernels multiply int8.
# `verify` also runs the same graph with float32 activations.
INT8_ACTIVATIONS = 4


class QuantizeWeights(ir.passes.InPlacePass):
    """Replace MatMul(x, weight) [+ bias] by MatMulNBits, and Gather by GatherBlockQuantized."""

    def __init__(self, quantized: Mapping[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized

    def requires(self, model: ir.Model) -> None:
        """Require all weights of `quantized`, and the users that `readers` allows."""
        require_weights(model.graph, self.quantized)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        for name, weight in self.quantized.items():
            old = graph.initializers.pop(name)
            dtype = old.dtype or ir.DataType.FLOAT
            inputs = _initializers(graph, name, weight, dtype)
            lookups, products = readers(old)
            for node in lookups:
                _replace_lookup(graph, node, name, inputs, weight)
            for node in products:
                _replace_product(graph, node, inputs, weight, dtype)
            graph.remove(old.consumers(), safe=True)  # the Transpose nodes
        if self.quantized:
            model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, bool(self.quantized))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that all weights of `quantized` are integers now."""
        for name in self.quantized:
            dtype = model.graph.initializers[name].dtype
            ensure(dtype == ir.DataType.UINT8, f"{name} is an array of bytes, not {dtype}")


def _initializers(
    graph: ir.Graph, name: str, weight: BlockQuantized, dtype: ir.DataType
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Return values, scales in the type `dtype`, and zero points."""
    zero_points = weight.packed_zero_points()
    scales = add_initializer(graph, f"{name}.scales", weight.scales)
    return (
        add_initializer(graph, name, weight.packed),
        scales if dtype == ir.DataType.FLOAT else cast(graph, scales, dtype),
        None if zero_points is None else add_initializer(graph, f"{name}.zero_points", zero_points),
    )


def _replace_product(
    graph: ir.Graph,
    node: ir.Node,
    inputs: tuple[ir.Value, ir.Value, ir.Value | None],
    weight: BlockQuantized,
    dtype: ir.DataType,
) -> None:
    """Replace `node`, and the addition of a bias after it, by one MatMulNBits."""
    old, bias, users = [node], [], node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add" and operand(users[0], 1).is_initializer():
        old.append(users[0])
        bias = [None, users[0].inputs[1]]  # None: the unused input `g_idx` before the bias
    rows, width = weight.shape
    attributes = {
        "K": width,
        "N": rows,
        "bits": weight.bits,
        "block_size": weight.block,
        "accuracy_level": INT8_ACTIVATIONS,
    }
    product = ir.node("MatMulNBits", [node.inputs[0], *inputs, *bias], attributes, domain=MICROSOFT)
    product.outputs[0].dtype = dtype  # torch.onnx leaves some MatMuls untyped
    ir.convenience.replace_nodes_and_values(
        graph, old[-1], old, [product], old[-1].outputs, product.outputs
    )


def _replace_lookup(
    graph: ir.Graph,
    node: ir.Node,
    name: str,
    inputs: tuple[ir.Value, ir.Value, ir.Value | None],
    weight: BlockQuantized,
) -> None:
    """Replace Gather(table, ids) by GatherBlockQuantized, which takes the bytes as [N, ...]."""
    _, scales, zero_points = inputs
    values = add_initializer(graph, name + ROWS_SUFFIX, weight.packed.reshape(weight.shape[0], -1))
    attributes = {
        "bits": weight.bits,
        "block_size": weight.block,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    lookup = ir.node(
        "GatherBlockQuantized",
        [values, node.inputs[1], scales, *([] if zero_points is None else [zero_points])],
        attributes,
        domain=MICROSOFT,
    )
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [lookup], node.outputs, lookup.outputs
    )
