"""Read each dynamic dimension in one place, so that values that depend on it are computed once."""

from collections.abc import Iterator

import onnx_ir as ir

from .parts import ensure, operand

__all__ = ["ShareDimensions"]

Place = tuple[ir.Value, int]  # of a dimension: a value, and the axis of its shape


class ShareDimensions(ir.passes.InPlacePass):
    """Make every Shape node that reads one symbolic dimension read it from a graph input.

    A lowering translates each layer separately and reads the number of new tokens from that layer's
    own tensors. Once all layers read it from the same input, their masks are equal expressions, and
    common-subexpression elimination keeps only one of them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        found = list(_elsewhere(model.graph))
        for node, (value, axis) in found:
            node.replace_input_with(0, value)
            node.attributes["start"] = ir.AttrInt64("start", axis)
            node.attributes["end"] = ir.AttrInt64("end", axis + 1)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that every dimension of an input is read from that input."""
        left = [str(operand(node, 0).name) for node, _ in _elsewhere(model.graph)]
        ensure(not left, f"no dimension of an input is read from {', '.join(left)}")


def _elsewhere(graph: ir.Graph) -> Iterator[tuple[ir.Node, Place]]:
    """Yield each Shape node that reads an input's dimension from another value; and its place."""
    sources: dict[str, Place] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                sources.setdefault(size.value, (value, axis))
    for node in graph:
        source = sources.get(_dimension(node) or "") if node.op_type == "Shape" else None
        if source is not None and source[0] is not node.inputs[0]:
            yield node, source


def _dimension(node: ir.Node) -> str | None:
    """Return the name of the symbolic dimension that a Shape node reads, if it is only one."""
    shape = operand(node, 0).shape
    start, end = node.attributes.get("start"), node.attributes.get("end")
    if shape is None or start is None or end is None or end.as_int() != start.as_int() + 1:
        return None
    size = shape[start.as_int()]
    return size.value if isinstance(size, ir.SymbolicDim) else None
