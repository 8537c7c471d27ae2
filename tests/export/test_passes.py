"""The graph passes, each on a graph of a few nodes."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import InPlacePass, PostconditionError, PreconditionError
from small_graphs import parsed, product, quantised

from edgegpt.export.lazy_weights import LazyWeight
from edgegpt.export.passes import (
    CastWeights,
    DequantizeWeights,
    FeedPositions,
    FoldWeightTransposes,
    FuseSkipNorms,
    QuantizeActivations,
    QuantizeWeights,
    ShareDimensions,
    StoreColumns,
)


def test_a_transposed_weight_is_stored_transposed_under_its_name() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    text = """agraph (float[B,3] x, float[2,3] w) => (float[B,2] y) {
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul (x, t)
    }"""
    model = parsed(text, w=weight)
    assert FoldWeightTransposes()(model).modified
    assert [node.op_type for node in model.graph] == ["MatMul"]
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight.T)
    assert not FoldWeightTransposes()(model).modified


def test_a_weight_with_another_use_is_left_alone() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    text = """agraph (float[B,3] x, int64[B] i, float[2,3] w) => (float[B,2] y, float[B,3] e) {
        e = Gather (w, i)
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul (x, t)
    }"""
    model = parsed(text, w=weight)
    assert not FoldWeightTransposes()(model).modified
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight)


def test_a_transposed_activation_is_left_alone() -> None:
    text = """agraph (float[2,3] x) => (float[3,2] y) { y = Transpose <perm = [1, 0]> (x) }"""
    assert not FoldWeightTransposes()(parsed(text)).modified


def test_a_dimension_is_read_from_the_input_that_has_it() -> None:
    text = """agraph (float[B,T] x) => (int64[1] n) <float[B,T] h> {
        h = Relu (x)
        n = Shape <start = 1, end = 2> (h)
    }"""
    model = parsed(text)
    assert ShareDimensions()(model).modified
    shape = model.graph[1]
    assert shape.inputs[0].name == "x"
    assert not ShareDimensions()(model).modified


def test_the_axis_follows_the_input() -> None:
    text = """agraph (float[B,T] x) => (int64[1] n) <float[T,B] h> {
        h = Transpose <perm = [1, 0]> (x)
        n = Shape <start = 0, end = 1> (h)
    }"""
    model = parsed(text)
    assert ShareDimensions()(model).modified
    shape = model.graph[1]
    assert (shape.attributes["start"].as_int(), shape.attributes["end"].as_int()) == (1, 2)


def test_a_dimension_that_no_input_has_is_left_alone() -> None:
    text = """agraph (float[B,T] x, float[B,T] z) => (int64[1] n) <float[S,T] h> {
        h = Concat <axis = 0> (x, z)
        n = Shape <start = 0, end = 1> (h)
    }"""
    assert not ShareDimensions()(parsed(text)).modified


@pytest.mark.parametrize("axes", ["", "<start = 0>", "<start = 0, end = 2>"])
def test_a_whole_shape_is_left_alone(axes: str) -> None:
    text = f"""agraph (float[B,T] x) => (int64[2] n) <float[B,T] h> {{
        h = Relu (x)
        n = Shape {axes} (h)
    }}"""
    assert not ShareDimensions()(parsed(text)).modified


def test_a_sum_that_two_norms_read_is_fused_with_the_first() -> None:
    text = """agraph (float[B,4] a, float[B,4] b, float[4] g) => (float[B,4] y, float[B,4] z) {
        s = Add (a, b)
        y = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
        z = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
    }"""
    model = parsed(text, g=np.ones(4, dtype=np.float32))
    del model.opset_imports["com.microsoft"]
    assert FuseSkipNorms()(model).modified
    assert model.opset_imports["com.microsoft"] == 1
    fused, other = model.graph
    assert (fused.op_type, fused.domain) == ("SkipSimplifiedLayerNormalization", "com.microsoft")
    assert other.inputs[0] is fused.outputs[3]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_a_biased_sum_that_another_node_reads_is_not_taken_apart() -> None:
    text = """agraph (float[B,4] a, float[B,4] b, float[4] g, float[4] h)
    => (float[B,4] y, float[B,4] z)
    <float[B,4] c, float[B,4] s> {
        c = Add (b, h)
        s = Add (a, c)
        y = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
        z = Relu (c)
    }"""
    ones = np.ones(4, dtype=np.float32)
    model = parsed(text, g=ones, h=ones)
    assert FuseSkipNorms()(model).modified
    kinds = [node.op_type for node in model.graph]
    assert kinds == ["Add", "SkipSimplifiedLayerNormalization", "Relu"]
    assert [value.name for value in model.graph[1].inputs] == ["c", "a", "g"]


@pytest.mark.parametrize("kind", ["RMSNormalization", "LayerNormalization"])
def test_a_norm_without_an_axis_or_a_bias_is_over_the_last_one(kind: str) -> None:
    text = f"""agraph (float[B,4] a, float[B,4] b, float[4] g) => (float[B,4] y) {{
        s = Add (a, b)
        y = {kind} <epsilon = 0.1> (s, g)
    }}"""
    model = parsed(text, g=np.ones(4, dtype=np.float32))
    assert FuseSkipNorms()(model).modified
    names = [value.name for value in model.graph[0].inputs if value is not None]
    assert names == ["b", "a", "g"]


def test_a_sum_with_a_table_is_no_bias() -> None:
    text = """agraph (float[2,4] a, float[2,4] b, float[4] g, float[2,4] t) => (float[2,4] y) {
        c = Add (b, t)
        s = Add (a, c)
        y = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
    }"""
    table = {"g": np.ones(4, dtype=np.float32), "t": np.ones((2, 4), dtype=np.float32)}
    model = parsed(text, **table)
    assert FuseSkipNorms()(model).modified
    assert [value.name for value in model.graph[1].inputs] == ["c", "a", "g"]


@pytest.mark.parametrize(("other", "fused"), [("k", True), ("g", False)])
def test_values_of_unknown_rank_are_streams_but_for_weights(other: str, fused: bool) -> None:
    text = f"""agraph (float[B,T,4] x, float[4] g) => (float[B,T,4] y) {{
        h = Relu (x)
        k = Abs (h)
        s = Add (h, {other})
        y = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
    }}"""
    model = parsed(text, g=np.ones(4, dtype=np.float32))
    assert FuseSkipNorms()(model).modified is fused


STEP = """agraph (int64[B,T] ids, int64[B] past_len, int64[B,P] logit_positions, float[B,T,4] q,
                float[B,1,S,4] pk, float[B,1,S,4] pv, float[4] g) => (float[B,P,4] logits) {
    last = Cast <to = 6> (past_len)
    a = com.microsoft.GroupQueryAttention <num_heads = 1, kv_num_heads = 1>
        (q, , , pk, pv, LAST, last)
    WANTED
    logits = RMSNormalization <axis = -1> (wanted, g)
}"""
WANTED = "wanted = GatherElements <axis = 1> (a, logit_positions)"


def step(**changes: str) -> ir.Model:
    """Return the last nodes of a step, as the lowering for ONNX Runtime emits them."""
    text = STEP
    for old, new in ({"LAST": "last", "WANTED": WANTED} | changes).items():
        text = text.replace(old, new)
    return parsed(text, g=np.ones(4, dtype=np.float32))


def test_the_tables_that_positions_are_looked_up_in_are_found_by_their_indices() -> None:
    looked_up = """table = ConstantOfShape (ids)
    axis = Constant <value_ints = [1]> ()
    first = Unsqueeze (past_len, axis)
    slot = Add (first, ids)
    row = Gather (table, slot)
    other = Gather (table, ids)
    wide = Unsqueeze (ids, axis)
    sum = Add (wide, ids)
    third = Gather (table, sum)
    """
    model = step(WANTED=looked_up + WANTED)
    assert FeedPositions()(model).modified
    gathers = {n.outputs[0].name: n.inputs[1].name for n in model.graph if n.op_type == "Gather"}
    assert gathers == {"row": "position_ids", "other": "ids", "third": "sum"}
    names = [value.name for value in model.graph.inputs]
    assert names[:4] == ["ids", "seqlens_k", "total_sequence_length", "position_ids"]


@pytest.mark.parametrize("norm", ["RMSNormalization", "LayerNormalization"])
def test_positions_are_picked_after_the_final_norm(norm: str) -> None:
    model = step(
        RMSNormalization=norm,
        **{"logits = ": "normed = ", "(wanted, g)": "(wanted, g) logits = Relu (normed)"},
    )
    for value, shape in (("a", ["B", "T", 4]), ("normed", ["B", "P", 4])):
        known = next(v for node in model.graph for v in node.outputs if v.name == value)
        known.type, known.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    assert FeedPositions()(model).modified
    assert [value.name for value in model.graph.inputs][:4] == [
        *("ids", "seqlens_k", "total_sequence_length", "logit_positions")
    ]
    normed, rows, head = [*model.graph][-3:]
    assert [node.op_type for node in (normed, rows, head)] == [norm, "GatherND", "Relu"]
    assert (normed.inputs[0].name, rows.inputs[0].name) == ("a", "normed")
    assert head.inputs[0] is rows.outputs[0]
    assert normed.outputs[0].shape == ["B", "T", 4]
    assert rows.outputs[0].dtype == ir.DataType.FLOAT


def test_a_bias_is_cut_to_the_longest_row() -> None:
    model = step(**{"pv, last, last)": "pv, last, last, , , , pk)"})
    assert FeedPositions()(model).modified
    attention = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    cut = attention.inputs[10].producer()
    assert [value.name for value in cut.inputs[:1]] == ["pk"]
    assert cut.inputs[2].producer().inputs[0].name == "total_sequence_length"
    assert cut.inputs[3].producer().attributes["value_ints"].as_ints() == (3,)
    assert cut.outputs[0].dtype == ir.DataType.FLOAT


def test_without_a_final_norm_the_head_reads_the_wanted_rows() -> None:
    model = step(**{"RMSNormalization <axis = -1> (wanted, g)": "Mul (wanted, g)"})
    assert FeedPositions()(model).modified
    head = model.graph[-1]
    rows = head.inputs[0].producer()
    assert (head.op_type, rows.op_type) == ("Mul", "GatherND")
    assert rows.inputs[0].name == "a"


TRANSPOSED = """agraph (float[B,3] x, float[2,3] w) => (float[B,2] y) {
    t = Transpose (w)
    y = MatMul (x, t)
}"""
NORM = """agraph (float[B,4] a, float[B,4] b, float[4] g) => (float[B,4] y) {
    s = Add (a, b)
    y = LayerNormalization <axis = 0> (s, g)
}"""
UNKNOWN_SHAPE = """agraph (float[B,T] x) => (int64[1] n) {
    h = Relu (x)
    n = Shape <start = 1, end = 2> (h)
}"""
SHARED_TRANSPOSE = """agraph (float[B,T,32] x, float[4,32] w) => (float[B,T,4] y, float[32,4] z) {
    t = Transpose <perm = [1, 0]> (w)
    z = Relu (t)
    y = MatMul (x, t)
}"""
FIRST_OPERAND = """agraph (float[32,T] x, float[4,32] w) => (float[4,T] y) {
    y = MatMul (w, x)
}"""
AS_INDICES = """agraph (float[T] x, float[4,32] w) => (float[4,32] y) {
    y = Gather (x, w)
}"""
NIBBLES = """agraph (float[B,T,32] x, uint8[4,2,16] other, float[4,2] s) => (float[B,T,4] y) {
    h = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 8, block_size = 16> (x, other, s)
    y = Relu (h)
}"""
ONES = {"g": np.ones(4, dtype=np.float32)}
TABLE = {"w": np.zeros((4, 32), dtype=np.float32)}


@pytest.mark.parametrize(
    ("edit", "model", "reason"),
    [
        (FoldWeightTransposes(), parsed(TRANSPOSED, w=np.ones((2, 3))), "of w has a perm"),
        (FuseSkipNorms(), parsed(NORM, **ONES), "y is a norm over the last axis"),
        (FeedPositions(), product(), "it has the input ids"),
        (FeedPositions(), step(**{"com.microsoft.GroupQuery": "com.microsoft.Group"}), "attention"),
        (FeedPositions(), step(LAST="logit_positions"), "past_len stands for the lengths"),
        (FeedPositions(), step(WANTED="wanted = Relu (a)"), "one GatherElements picks"),
        (FeedPositions(), step(WANTED=f"{WANTED} other = Relu (wanted)"), "the final norm or head"),
        (QuantizeWeights(quantised()), parsed(FIRST_OPERAND, **TABLE), "w is looked up by Gather"),
        (QuantizeWeights(quantised()), parsed(AS_INDICES, **TABLE), "w is looked up by Gather"),
        (QuantizeWeights(quantised()), parsed(NORM, **ONES), "it has the weight w"),
        (QuantizeWeights(quantised(64)), product(), r"w has the sizes \(4, 64\)"),
        (QuantizeWeights(quantised()), parsed(SHARED_TRANSPOSE, **TABLE), "the Transpose of w"),
        (DequantizeWeights(quantised(24)), product(24), "whole blocks make up the rows of w"),
        (QuantizeActivations(quantised()), parsed(NIBBLES), "other is one of the quantised"),
        (StoreColumns(quantised()), product(), "the rows of w are one block"),
        (StoreColumns(quantised(block=32)), parsed(NORM, **ONES), "it has the weight w"),
        (StoreColumns(quantised(block=32, bits=4)), product(), "one block of 8 bits each"),
    ],
)
def test_a_graph_that_a_pass_cannot_edit_is_refused(
    edit: InPlacePass, model: ir.Model, reason: str
) -> None:
    with pytest.raises(PreconditionError, match=reason):
        edit(model)


PICKED = """agraph (float[B,T] x, int64[B,P] wanted) => (float[B,P] y) {
    y = GatherElements <axis = 1> (x, wanted)
}"""
UNFUSED = NORM.replace("axis = 0", "axis = -1")
ELSEWHERE = UNKNOWN_SHAPE.replace("(int64[1] n)", "(int64[1] n) <float[B,T] h>")


@pytest.mark.parametrize(
    ("edit", "model", "reason"),
    [
        (FoldWeightTransposes(), parsed(TRANSPOSED, w=np.ones((2, 3))), "nothing transposes w"),
        (ShareDimensions(), parsed(ELSEWHERE), "no dimension of an input is read from .*h"),
        (FuseSkipNorms(), parsed(UNFUSED, **ONES), "s is not summed apart from its norm"),
        (FeedPositions(), step(), "past_len is gone"),
        (FeedPositions(), parsed(PICKED), "no positions are picked before the final norm"),
        (QuantizeWeights(quantised()), product(), "w is an array of bytes, not FLOAT"),
        (DequantizeWeights(quantised()), product(), "w is no longer there"),
        (QuantizeActivations({}), parsed(NIBBLES), "no activations meet the blocks of other"),
        (StoreColumns(quantised(block=32)), product(), "w is int8, not FLOAT"),
    ],
)
def test_a_pass_that_left_its_work_undone_is_found_out(
    edit: InPlacePass, model: ir.Model, reason: str
) -> None:
    with pytest.raises(PostconditionError, match=reason):
        edit.ensures(model)


def test_a_weight_in_half_precision_is_stored_in_float32_and_cast() -> None:
    text = """agraph (float16[B,3] x, float16[3,2] w) => (float16[B,2] y) { y = MatMul (x, w) }"""
    model = parsed(text, w=np.zeros((3, 2), dtype=np.float16))
    weight = LazyWeight(
        lambda dtype: np.full((3, 2), 0.1, dtype.numpy()),
        ir.DataType.FLOAT16,
        (3, 2),
        name="w",
        key=(),
    )
    model.graph.initializers["w"].const_value = weight
    with pytest.raises(PostconditionError, match="w are in float32"):
        CastWeights().ensures(model)
    assert CastWeights()(model).modified
    cast, product = model.graph
    assert (cast.op_type, cast.attributes["to"].as_int()) == ("Cast", ir.DataType.FLOAT16)
    assert product.inputs[1] is cast.outputs[0]
    assert model.graph.initializers["w"].const_value.dtype == ir.DataType.FLOAT
    assert not CastWeights()(model).modified


def test_a_table_that_is_the_same_for_all_rows_is_no_stream() -> None:
    text = """agraph (float[B,T,4] x, float[T,4] table, float[4] g) => (float[B,T,4] y) {
        s = Add (x, table)
        y = RMSNormalization <axis = -1, epsilon = 0.1> (s, g)
    }"""
    model = parsed(text, g=np.ones(4, dtype=np.float32))
    assert not FuseSkipNorms()(model).modified
