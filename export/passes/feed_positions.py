"""Let the host feed the values that depend only on the row lengths, not compute them per step."""

import onnx_ir as ir

from .parts import ensure, operand, require

__all__ = ["FeedPositions"]

ATTENTION = "GroupQueryAttention"
LENGTHS = (5, 6)  # the operator's inputs for the last slots and the longest length


class FeedPositions(ir.passes.InPlacePass):
    """Replace the arithmetic on `past_len` and `logit_positions` by inputs that hold its results.

    The input `past_len` is replaced by

        seqlens_k int32 [B]: the last slot of each row that is filled after the step
        total_sequence_length int32 [1]: the longest row after the step
        position_ids int64 [B, T]: the slot of each new token, if the graph looks up a table by it

    The input `logit_positions` gets the shape [B, P, 1] that GatherND takes. The positions are now
    picked after the final norm, so that this norm can be fused with the addition before it.
    """

    def requires(self, model: ir.Model) -> None:
        """Require a trace of `GPT.forward_cached` in which one operator does each attention."""
        graph, names = model.graph, [value.name for value in model.graph.inputs]
        for name in ("ids", "past_len", "logit_positions"):
            require(name in names, f"it has the input {name}")
        layers = [node for node in graph if node.op_type == ATTENTION]
        require(bool(layers), f"attention is by {ATTENTION}")
        past_len = _input(graph, "past_len")
        for node in layers:
            fed = all(_follows_from(operand(node, place), past_len) for place in LENGTHS)
            require(fed, f"past_len stands for the lengths of {node.outputs[0].name}")
        gathers = [node for node in graph if node.op_type == "GatherElements"]
        require(len(gathers) == 1, "one GatherElements picks the wanted positions")
        require(len(gathers[0].outputs[0].uses()) == 1, "the final norm alone reads them")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        graph = model.graph
        past_len, ids = _input(graph, "past_len"), _input(graph, "ids")
        assert ids.shape is not None
        batch, new_tokens = ids.shape
        seqlens = ir.val("seqlens_k", ir.DataType.INT32, ir.Shape([batch]))
        total = ir.val("total_sequence_length", ir.DataType.INT32, [1])
        position_ids = ir.val("position_ids", ir.DataType.INT64, ir.Shape([batch, new_tokens]))
        for node in graph:
            if node.op_type == ATTENTION:
                for place, value in zip(LENGTHS, (seqlens, total), strict=True):
                    node.replace_input_with(place, value)
            elif node.op_type == "Gather" and _follows_from(operand(node, 1), past_len):
                node.replace_input_with(1, position_ids)
        place = graph.inputs.index(past_len)
        fed = [seqlens, total, *([position_ids] if position_ids.uses() else [])]
        graph.inputs[place : place + 1] = fed
        _gather_rows(graph)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Ensure that `past_len` is gone, and that positions are picked after the final norm."""
        ensure(all(value.name != "past_len" for value in model.graph.inputs), "past_len is gone")
        left = any(node.op_type == "GatherElements" for node in model.graph)
        ensure(not left, "no positions are picked before the final norm")


def _input(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)


def _follows_from(value: ir.Value, source: ir.Value) -> bool:
    """Return whether `value` is computed from `source`."""
    node = value.producer()
    given = () if node is None else node.inputs
    return value is source or any(one is not None and _follows_from(one, source) for one in given)


def _gather_rows(graph: ir.Graph) -> None:
    """Replace norm(GatherElements(x, expanded positions)) by GatherND(norm(x), positions)."""
    positions = _input(graph, "logit_positions")
    assert positions.shape is not None
    positions.shape = ir.Shape([*positions.shape, 1])
    gather = next(node for node in graph if node.op_type == "GatherElements")
    ((norm, _),) = gather.outputs[0].uses()
    stream, normed = operand(gather, 0), norm.outputs[0]
    rows = ir.node("GatherND", [normed, positions], attributes={"batch_dims": 1})
    wanted = rows.outputs[0]
    wanted.name, wanted.type = "wanted_rows", normed.type
    for user, index in normed.uses():
        if user is not rows:
            user.replace_input_with(index, wanted)
    norm.replace_input_with(0, stream)
    normed.shape = stream.shape
    graph.insert_after(norm, rows)
    graph.remove(gather, safe=True)
