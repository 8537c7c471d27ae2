"""Store weights in the layout in which the graph multiplies by them."""

import onnx_ir as ir

__all__ = ["FoldWeightTransposes"]


class FoldWeightTransposes(ir.passes.InPlacePass):
    """Replace Transpose(weight) by the transposed weight, under the weight's own name.

    PyTorch keeps a linear layer as [out, in] and MatMul wants [in, out]. Left to the engine, the
    transposes would be folded at each load, at the price of both copies in memory.

    Precondition: none. A weight with another use as well (a tied embedding) is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        modified = False
        for node in list(model.graph):
            source = node.inputs[0] if node.op_type == "Transpose" else None
            if source is None or not source.is_initializer() or len(source.uses()) > 1:
                continue
            order = node.attributes["perm"].as_ints()
            array = source.const_value.numpy().transpose(order)
            source.const_value = ir.tensor(array.copy(order="C"), name=source.name)
            source.shape = ir.Shape(array.shape)
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
