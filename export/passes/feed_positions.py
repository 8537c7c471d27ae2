"""Let the host feed the values that depend only on the row lengths, not compute them per step."""

import onnx_ir as ir

from .parts import ensure, operand, require

__all__ = ["FeedPositions"]

ATTENTION = "GroupQueryAttention"
NORMS = ("LayerNormalization", "RMSNormalization")
LENGTHS = (5, 6)  # the operator's inputs for the last slots and the longest length
BIAS = 10  # its input for what is added to the scores


class FeedPositions(ir.passes.InPlacePass):
    """Replace the arithmetic on `past_len` and `logit_positions` by inputs that hold its results.

    The input `past_len` is replaced by

        seqlens_k int32 [B]: the last slot of each row that is filled after the step
        total_sequence_length int32 [1]: the longest row after the step
        position_ids int64 [B, T]: the slot of each new token, if the graph needs it

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
        require(len(gathers[0].outputs[0].uses()) == 1, "the final norm or head reads them")

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
                if len(node.inputs) > BIAS:
                    _cut_bias(graph, node, total)
            elif node.op_type == "Add" and _is_axis_added(operand(node, 0), past_len):
                for user, index in list(node.outputs[0].uses()):
                    user.replace_input_with(index, position_ids)
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


def _cut_bias(graph: ir.Graph, attention: ir.Node, total: ir.Value) -> None:
    """Leave of an operator's bias [1 or B, H, T, S] the slots that it wants, the first ones."""
    bias = operand(attention, BIAS)
    end = ir.node("Cast", [total], attributes={"to": ir.DataType.INT64})
    start, axis = (
        ir.node("Constant", [], attributes={"value_ints": [number]}) for number in (0, 3)
    )
    cut = ir.node("Slice", [bias, start.outputs[0], end.outputs[0], axis.outputs[0]])
    cut.outputs[0].type = bias.type
    graph.insert_before(attention, [end, start, axis, cut])
    attention.replace_input_with(BIAS, cut.outputs[0])


def _is_axis_added(value: ir.Value, source: ir.Value) -> bool:
    """Return whether `value` is `source` [B] as [B, 1]."""
    node = value.producer()
    return node is not None and node.op_type == "Unsqueeze" and operand(node, 0) is source


def _gather_rows(graph: ir.Graph) -> None:
    """Replace norm(GatherElements(x, expanded positions)) by GatherND(norm(x), positions).

    Without a norm there, the head reads GatherND(x, positions).
    """
    positions = _input(graph, "logit_positions")
    assert positions.shape is not None
    positions.shape = ir.Shape([*positions.shape, 1])
    gather = next(node for node in graph if node.op_type == "GatherElements")
    picked, stream = gather.outputs[0], operand(gather, 0)
    ((reader, _),) = picked.uses()
    if reader.op_type in NORMS:
        reader.replace_input_with(0, stream)
        picked, before = reader.outputs[0], reader
        picked.shape, read = stream.shape, picked
    else:
        before, read = gather, stream
    rows = ir.node("GatherND", [read, positions], attributes={"batch_dims": 1})
    wanted = rows.outputs[0]
    wanted.name, wanted.type = "wanted_rows", picked.type
    for user, index in list(picked.uses()):
        if user is not rows:
            user.replace_input_with(index, wanted)
    graph.insert_after(before, rows)
    graph.remove(gather, safe=True)
