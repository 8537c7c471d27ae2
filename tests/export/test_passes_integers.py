"""The passes that put integers in the place of weights, each on a graph of a few nodes."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import InPlacePass
from small_graphs import parsed, quantised

from edgegpt.export.passes import (
    DequantizeWeights,
    QuantizeActivations,
    QuantizeWeights,
    StoreColumns,
)


@pytest.mark.parametrize("edit", [QuantizeWeights, DequantizeWeights, StoreColumns])
def test_a_weight_gives_way_to_its_integers_in_every_product(edit: type[InPlacePass]) -> None:
    text = """agraph (float[B,T,32] x, float[32,4] w) => (float[B,T,4] y, float[B,T,4] z) {
        y = MatMul (x, w)
        h = Relu (x)
        z = MatMul (h, w)
    }"""
    model = parsed(text, w=np.zeros((32, 4), dtype=np.float32))
    assert edit(quantised(block=32))(model).modified
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    read = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert read & {"w.scales", "w.magnitudes"}
    held = model.graph.initializers.values()
    assert all(value.dtype != ir.DataType.FLOAT for value in held if value.name == "w")


def test_columns_and_rows_read_the_same_integers() -> None:
    text = """agraph (float[B,T,32] x, int64[B,T] i, float[4,32] w)
        => (float[B,T,4] y, float[B,T,32] e) {
        e = Gather (w, i)
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul (x, t)
    }"""
    stored, rng = quantised(block=32), np.random.default_rng(0)
    fed = {"x": rng.random((2, 3, 32), dtype=np.float32), "i": np.array([[3, 0, 1], [2, 2, 3]])}
    model = parsed(text, w=np.zeros((4, 32), dtype=np.float32))
    StoreColumns(stored)(model)
    assert sorted(model.graph.initializers) == ["axis.last", "w", "w.scales"]
    weight = stored["w"].dequantized()
    exact = ReferenceEvaluator(ir.to_proto(model)).run(None, fed)
    np.testing.assert_allclose(exact[0], fed["x"] @ weight.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(exact[1], weight[fed["i"]], rtol=1e-6)
    model.opset_imports.pop("com.microsoft", None)
    assert not QuantizeActivations({})(model).modified  # the one product is the head
    assert QuantizeActivations({}, head=True)(model).modified
    assert model.opset_imports["com.microsoft"] == 1
    (product,) = (node for node in model.graph if node.op_type == "MatMulIntegerToFloat")
    assert [value.name for value in product.inputs[1:4]] == ["w", "int8.step", "w.scales"]
    kinds = [node.op_type for node in model.graph]
    assert "MatMul" not in kinds
    assert kinds.count("Cast") == 1  # of the rows; nothing reads the product's any more


def test_products_of_one_value_round_it_once() -> None:
    text = """agraph (float[B,T,32] x, float[32,4] w) => (float[B,T,4] y, float[B,T,4] z) {
        y = MatMul (x, w)
        z = MatMul (x, w)
    }"""
    model = parsed(text, w=np.zeros((32, 4), dtype=np.float32))
    StoreColumns(quantised(block=32))(model)
    assert QuantizeActivations({}, head=True)(model).modified
    kinds = [node.op_type for node in model.graph]
    assert (kinds.count("MatMulIntegerToFloat"), kinds.count("QuantizeLinear")) == (2, 1)


def test_products_of_activations_stay_as_they_are() -> None:
    text = """agraph (float[B,4] x, float[4,4] h, int8[4,4] i) => (float[B,4] y, float[B,4] z) {
        k = Relu (h)
        v = Mul (k, h)
        y = MatMul (x, v)
        c = Cast <to = 1> (i)
        t = Transpose <perm = [1, 0]> (c)
        z = MatMul (x, t)
    }"""
    assert not QuantizeActivations({}, head=True)(parsed(text)).modified
