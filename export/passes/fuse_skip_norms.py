"""Join each addition to the residual stream with the norm that follows it."""

import onnx_ir as ir

__all__ = ["FuseSkipNorms"]

DOMAIN = "com.microsoft"
FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}


class FuseSkipNorms(ir.passes.InPlacePass):
    """Replace norm(a + b [+ bias]) by ONNX Runtime's skip-norm, which also gives the sum.

    Precondition: none. A sum whose operand is itself a sum with a vector weight takes that weight
    as its bias, if nothing else reads the inner sum.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        modified = False
        for node in list(model.graph):
            total = node.inputs[0].producer() if node.op_type in FUSED else None
            if total is not None and total.op_type == "Add" and not _is_bias_add(total):
                _fuse(model.graph, total, node)
                modified = True
        if modified:
            model.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified)


def _fuse(graph: ir.Graph, total: ir.Node, norm: ir.Node) -> None:
    stream, added = total.inputs
    bias_add, bias = added.producer(), None
    if bias_add is not None and _is_bias_add(bias_add) and len(added.uses()) == 1:
        added, bias = bias_add.inputs
    gamma, *beta = norm.inputs[1:]
    inputs = [added, stream, gamma]
    if norm.op_type == "LayerNormalization":
        inputs.append(beta[0] if beta else None)
    if bias is not None:
        inputs.append(bias)
    old_sum, old_normed = total.outputs[0], norm.outputs[0]
    epsilon = {"epsilon": norm.attributes["epsilon"].as_float()}
    fused = ir.node(FUSED[norm.op_type], inputs, epsilon, domain=DOMAIN, num_outputs=4)
    normed, _, _, new_sum = fused.outputs
    for new, old in ((normed, old_normed), (new_sum, old_sum)):
        new.dtype, new.shape = old.dtype, old.shape
        ir.convenience.replace_all_uses_with(old, new)
    for unused in fused.outputs[1:3]:
        unused.name = ""
    # The sum may be read before the norm's place, but never before its own.
    graph.insert_after(total, fused)
    graph.remove(norm, safe=True)
    graph.remove(total, safe=True)
    normed.name, new_sum.name = old_normed.name, old_sum.name
    if bias is not None:
        graph.remove(bias_add, safe=True)


def _is_bias_add(node: ir.Node) -> bool:
    """Return whether `node` adds a vector weight."""
    if node.op_type != "Add" or node.inputs[1] is None:
        return False
    return node.inputs[1].is_initializer() and len(node.inputs[1].shape or ()) == 1
