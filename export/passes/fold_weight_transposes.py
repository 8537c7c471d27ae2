"""Store weights in the layout in which the graph multiplies by them."""

import onnx_ir as ir

from ..lazy_weights import transposed
from .parts import ensure, operand, require

__all__ = ["FoldWeightTransposes"]


class FoldWeightTransposes(ir.passes.InPlacePass):
    """Replace Transpose(weight) by the transposed weight, under the weight's own name.

    PyTorch stores a linear layer as [out, in]; MatMul takes [in, out]. Otherwise the engine would
    fold the transposes at each load and hold both copies in memory. The values are transposed when
    they are written. A weight with another use as well (a tied embedding) is left alone.
    """

    def requires(self, model: ir.Model) -> None:
        """Require that each Transpose of a weight has the attribute `perm`."""
        for node, weight in _transposed(model.graph):
            require("perm" in node.attributes, f"the Transpose of {weight.name} has a perm")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        found = _transposed(model.graph)
        for node, weight in found:
            assert weight.const_value is not None
            order = node.attributes["perm"].as_ints()
            weight.const_value = transposed(weight.const_value, order)
            weight.shape = ir.Shape(weight.const_value.shape.numpy())
            ir.convenience.replace_all_uses_with(node.outputs[0], weight)
            model.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that no Transpose of a weight with a single use is left."""
        left = [str(weight.name) for _, weight in _transposed(model.graph)]
        ensure(not left, f"nothing transposes {', '.join(left)}")


def _transposed(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Return each Transpose node of a weight that no other node reads, with that weight."""
    nodes = [(node, operand(node, 0)) for node in graph if node.op_type == "Transpose"]
    return [(n, value) for n, value in nodes if value.is_initializer() and len(value.uses()) == 1]
