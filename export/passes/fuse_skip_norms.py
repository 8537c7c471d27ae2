"""Join each addition to the residual stream with the norm that follows it."""

import onnx_ir as ir

from .parts import MICROSOFT, ensure, operand, require

__all__ = ["FuseSkipNorms"]

FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}


class FuseSkipNorms(ir.passes.InPlacePass):
    """Replace norm(a + b [+ bias]) by ONNX Runtime's skip-norm, which also outputs the sum.

    If b is itself a sum with a vector weight, and no other node reads b, that weight becomes the
    bias of the skip-norm.
    """

    def requires(self, model: ir.Model) -> None:
        """Require that the norms are over the last axis, the only one that a skip-norm supports."""
        for norm in _pairs(model.graph).values():
            axis = norm.attributes.get_int("axis", -1)
            require(axis == -1, f"{norm.outputs[0].name} is a norm over the last axis")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        pairs = _pairs(model.graph)
        for total, norm in pairs.items():
            _fuse(model.graph, total, norm)
        if pairs:
            model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, bool(pairs))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that no norm of a sum of two streams is left."""
        left = [str(total.outputs[0].name) for total in _pairs(model.graph)]
        ensure(not left, f"{', '.join(left)} is not summed apart from its norm")


def _pairs(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Return the additions of two streams whose sum is normalised, with the first norm of each."""
    pairs: dict[ir.Node, ir.Node] = {}
    for norm in graph:
        total = operand(norm, 0).producer() if norm.op_type in FUSED else None
        if total is not None and total.op_type == "Add" and _adds_streams(total):
            pairs.setdefault(total, norm)
    return pairs


def _fuse(graph: ir.Graph, total: ir.Node, norm: ir.Node) -> None:
    stream, added = operand(total, 0), operand(total, 1)
    old, bias = [norm, total], None
    bias_add = added.producer()
    if bias_add is not None and _is_bias_add(bias_add) and len(added.uses()) == 1:
        added, bias = operand(bias_add, 0), operand(bias_add, 1)
        old.append(bias_add)
    gamma, *beta = norm.inputs[1:]
    inputs = [added, stream, gamma]
    if norm.op_type == "LayerNormalization":
        inputs.append(beta[0] if beta else None)
    if bias is not None:
        inputs.append(bias)
    epsilon = {"epsilon": norm.attributes["epsilon"].as_float()}
    fused = ir.node(FUSED[norm.op_type], inputs, epsilon, domain=MICROSOFT, num_outputs=4)
    normed, *unused, new_sum = fused.outputs
    for value in unused:
        value.name = ""
    # The new node takes the sum's place, because the sum may be read before the norm's place.
    ir.convenience.replace_nodes_and_values(
        graph, total, old, [fused], [norm.outputs[0], total.outputs[0]], [normed, new_sum]
    )


def _adds_streams(node: ir.Node) -> bool:
    """Return whether `node` adds two values of one rank: no bias and no table."""
    ranks = [None if value.shape is None else len(value.shape) for value in node.inputs if value]
    return not _is_bias_add(node) and (None in ranks or len(set(ranks)) == 1)


def _is_bias_add(node: ir.Node) -> bool:
    """Return whether `node` adds a vector weight."""
    if node.op_type != "Add":
        return False
    bias = operand(node, 1)
    return bias.is_initializer() and len(bias.shape or ()) == 1
