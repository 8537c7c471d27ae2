"""Use float32 activations with quantised weights, to tell kernel errors from quantiser errors."""

import onnx_ir as ir

__all__ = ["UseFloatActivations"]

FLOAT32 = 1  # the value of MatMulNBits' attribute `accuracy_level`


class UseFloatActivations(ir.passes.InPlacePass):
    """Set the accuracy level of every MatMulNBits to float32."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
        for node in nodes:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT32)
        return ir.passes.PassResult(model, bool(nodes))
