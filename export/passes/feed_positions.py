"""Let the host feed what follows from the lengths of the rows, instead of computing it per step."""

import onnx_ir as ir

__all__ = ["FeedPositions"]


class FeedPositions(ir.passes.InPlacePass):
    """Replace the arithmetic on `past_len` and `logit_positions` by inputs that hold its results.

    The input `past_len` gives way to

        seqlens_k int32 [B]: the last slot of each row that is filled after the step
        total_sequence_length int32 [1]: the longest row after the step
        position_ids int64 [B, T]: the slot of each new token (learned positions only)

    and `logit_positions` gets the shape [B, P, 1] that one GatherND takes; it moves behind the
    final norm, so that this norm can be fused with the addition before it.

    Precondition: as traced from `GPT.forward_cached`, attention by GroupQueryAttention.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        past_len = next(value for value in graph.inputs if value.name == "past_len")
        batch, new_tokens = next(value for value in graph.inputs if value.name == "ids").shape
        seqlens = _input("seqlens_k", ir.DataType.INT32, [batch])
        total = _input("total_sequence_length", ir.DataType.INT32, [1])
        position_ids = _input("position_ids", ir.DataType.INT64, [batch, new_tokens])
        for node in graph:
            if node.op_type == "GroupQueryAttention":
                node.replace_input_with(5, seqlens)
                node.replace_input_with(6, total)
            elif node.op_type == "Gather" and node.inputs[0].name == "position_embedding.weight":
                node.replace_input_with(1, position_ids)
        place = graph.inputs.index(past_len)
        fed = [seqlens, total, *([position_ids] if position_ids.uses() else [])]
        graph.inputs[place : place + 1] = fed
        _gather_rows(graph)
        return ir.passes.PassResult(model, True)


def _input(name: str, dtype: ir.DataType, shape: list[int | ir.SymbolicDim]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def _gather_rows(graph: ir.Graph) -> None:
    """Replace norm(GatherElements(x, expanded positions)) by GatherND(norm(x), positions)."""
    positions = next(value for value in graph.inputs if value.name == "logit_positions")
    positions.shape = ir.Shape([*positions.shape, 1])
    gather = next(node for node in graph if node.op_type == "GatherElements")
    ((norm, _),) = gather.outputs[0].uses()
    stream, normed = gather.inputs[0], norm.outputs[0]
    rows = ir.node("GatherND", [normed, positions], attributes={"batch_dims": 1})
    wanted = rows.outputs[0]
    wanted.name, wanted.dtype, wanted.shape = "wanted_rows", normed.dtype, None
    for user, index in list(normed.uses()):
        if user is not rows:
            user.replace_input_with(index, wanted)
    norm.replace_input_with(0, stream)
    normed.shape = stream.shape
    graph.insert_after(norm, rows)
    graph.remove(gather, safe=True)
