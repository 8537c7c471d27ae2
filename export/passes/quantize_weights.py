"""Put quantised weights in place of float32 ones."""

import onnx_ir as ir

from ..quantization import BlockQuantized

__all__ = ["DOMAIN", "ROWS_SUFFIX", "QuantizeWeights", "add_initializer"]

DOMAIN = "com.microsoft"
ROWS_SUFFIX = ".rows"  # of a weight's second name, for lookups by the row
# Activations are rounded to int8 block by block, too, which is what the fast kernels multiply;
# `verify` runs the same graph with float32 activations as well.
INT8_ACTIVATIONS = 4


class QuantizeWeights(ir.passes.InPlacePass):
    """Replace MatMul(x, weight) [+ bias] by MatMulNBits, and lookups in such a weight likewise.

    Precondition: the weights of `quantized` are the second inputs of their MatMul nodes, as
    [in, out]; a tied embedding is read by a Gather and through a Transpose.
    """

    def __init__(self, quantized: dict[str, BlockQuantized]) -> None:
        super().__init__()
        self.quantized = quantized

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        for name, weight in self.quantized.items():
            old = graph.initializers[name]
            users = [node for node, _ in old.uses()]
            graph.initializers.pop(name)
            inputs = _initializers(graph, name, weight)
            for node in users:
                if node.op_type == "Gather":
                    _replace_lookup(graph, node, name, inputs, weight)
                elif node.op_type == "Transpose":
                    ((product, _),) = node.outputs[0].uses()
                    _replace_product(graph, product, inputs, weight)
                    graph.remove(node, safe=True)
                else:
                    _replace_product(graph, node, inputs, weight)
        if self.quantized:
            model.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, bool(self.quantized))


def add_initializer(graph: ir.Graph, name: str, array: object) -> ir.Value:
    """Register `array` as the initializer `name`."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _initializers(graph: ir.Graph, name: str, weight: BlockQuantized) -> list[ir.Value | None]:
    """Return the initializers for values, scales and zero points."""
    zero_points = weight.packed_zero_points()
    return [
        add_initializer(graph, name, weight.packed()),
        add_initializer(graph, f"{name}.scales", weight.scales),
        None if zero_points is None else add_initializer(graph, f"{name}.zero_points", zero_points),
    ]


def _replace_product(
    graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], weight: BlockQuantized
) -> None:
    """Replace `node`, and the addition of a bias after it, by one MatMulNBits."""
    out, last = node.outputs[0], node
    bias, users = None, [user for user, _ in out.uses()]
    user = users[0] if len(users) == 1 else node
    if user.op_type == "Add" and user.inputs[1].is_initializer():
        bias, last, out = user.inputs[1], user, user.outputs[0]
    rows, width = weight.shape
    attributes = {
        "K": width,
        "N": rows,
        "bits": weight.bits,
        "block_size": weight.block,
        "accuracy_level": INT8_ACTIVATIONS,
    }
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], *inputs, *([None, bias] if bias is not None else [])],
        attributes,
        domain=DOMAIN,
    )
    _put(graph, product, out, last)
    if last is not node:
        graph.remove(node, safe=True)


def _replace_lookup(
    graph: ir.Graph,
    node: ir.Node,
    name: str,
    inputs: list[ir.Value | None],
    weight: BlockQuantized,
) -> None:
    """Replace Gather(table, ids) by GatherBlockQuantized, which wants the bytes as [N, ...]."""
    _, scales, zero_points = inputs
    values = add_initializer(
        graph, name + ROWS_SUFFIX, weight.packed().reshape(weight.shape[0], -1)
    )
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
        domain=DOMAIN,
    )
    _put(graph, lookup, node.outputs[0], node)


def _put(graph: ir.Graph, new: ir.Node, old: ir.Value, last: ir.Node) -> None:
    """Let `new`, placed after `last`, give the value `old`, and remove `last`."""
    value = new.outputs[0]
    value.dtype, value.shape, name = ir.DataType.FLOAT, old.shape, old.name
    graph.insert_after(last, new)
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    value.name = name
