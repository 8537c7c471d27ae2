"""Read each dynamic dimension in one place, so that what depends on it is computed once."""

import onnx_ir as ir

__all__ = ["ShareDimensions"]


class ShareDimensions(ir.passes.InPlacePass):
    """Make every Shape node that reads one symbolic dimension read it from a graph input.

    A lowering translates each layer by itself and reads the number of new tokens from that layer's
    own tensors. Once all layers read it from the same input, the masks that follow are equal, and
    common-subexpression elimination leaves one of them.

    Precondition: values carry their symbolic shapes, as torch.onnx.export leaves them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        sources = {}
        for value in model.graph.inputs:
            for axis, size in enumerate(value.shape or ()):
                if isinstance(size, ir.SymbolicDim):
                    sources.setdefault(size.value, (value, axis))
        modified = False
        for node in model.graph:
            if node.op_type == "Shape":
                modified |= _redirect(node, sources)
        return ir.passes.PassResult(model, modified)


def _redirect(node: ir.Node, sources: dict[str | None, tuple[ir.Value, int]]) -> bool:
    """Let `node` read its one dimension from a graph input, if it is one of the inputs'."""
    shape = node.inputs[0].shape
    start, end = node.attributes.get("start"), node.attributes.get("end")
    if shape is None or start is None or end is None or end.as_int() != start.as_int() + 1:
        return False
    size = shape[start.as_int()]
    if not isinstance(size, ir.SymbolicDim) or size.value not in sources:
        return False
    value, axis = sources[size.value]
    if value is node.inputs[0]:
        return False
    node.replace_input_with(0, value)
    node.attributes["start"] = ir.AttrInt64("start", axis)
    node.attributes["end"] = ir.AttrInt64("end", axis + 1)
    return True
