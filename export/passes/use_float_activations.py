"""Let quantised weights meet float32 activations, to tell a kernel's error from the quantiser's."""

import onnx_ir as ir

__all__ = ["UseFloatActivations"]

FLOAT32 = 1  # of MatMulNBits' accuracy levels


class UseFloatActivations(ir.passes.InPlacePass):
    """Set the accuracy level of every MatMulNBits to float32."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        nodes = [node for node in model.graph if node.op_type == "MatMulNBits"]
        for node in nodes:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", FLOAT32)
        return ir.passes.PassResult(model, bool(nodes))
