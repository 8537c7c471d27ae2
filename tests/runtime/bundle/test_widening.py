"""A float16 model that computes in float32, made without onnx and checked with it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgegpt.runtime.bundle.widening import wide_model
from edgegpt.runtime.errors import BundleError

WEIGHT = np.linspace(-1.7, 2.3, 12, dtype=np.float16).reshape(3, 4)
BIAS = np.linspace(0.1, 0.9, 4, dtype=np.float16)
SCALE = np.float16(1.1)
FACTOR = np.float32(1 / 3)  # kept in float32


@pytest.fixture
def model() -> bytes:
    """y = float32(x @ WEIGHT + BIAS) * FACTOR and z = float16(y) * SCALE, x in float16."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "factor"], ["y"]),
        helper.make_node("Cast", ["y"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(SCALE)),
        helper.make_node("Mul", ["narrow", "scale"], ["z"]),
    ]
    weights = {"weight": WEIGHT, "bias": BIAS, "factor": FACTOR}
    graph = helper.make_graph(
        nodes,
        "float16",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["rows", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT16, ["rows", 4]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
        value_info=[helper.make_tensor_value_info("sum", TensorProto.FLOAT16, ["rows", 4])],
    )
    opset = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def test_weights_stay_in_float16_and_everything_else_is_float32(model: bytes) -> None:
    wide = onnx.load_from_string(wide_model(model))
    onnx.checker.check_model(wide, full_check=True)  # which infers all types
    kinds = {tensor.name: tensor.data_type for tensor in wide.graph.initializer}
    assert sorted(kinds.values()) == [TensorProto.FLOAT] + [TensorProto.FLOAT16] * 2
    assert kinds["factor"] == TensorProto.FLOAT
    values = [*wide.graph.input, *wide.graph.output, *wide.graph.value_info]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    assert [value.name for value in values] == ["x", "y", "z", "sum"]


def test_it_computes_in_float32_with_the_weights_of_float16(model: bytes) -> None:
    x = np.array([[0.123456, -3.21, 1.0], [5.5, 0.001, 100.3]], dtype=np.float32)
    y, z = ReferenceEvaluator(onnx.load_from_string(wide_model(model))).run(None, {"x": x})
    wanted = (x @ WEIGHT.astype(np.float32) + BIAS.astype(np.float32)) * FACTOR
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    np.testing.assert_allclose(z, wanted * np.float32(SCALE), rtol=1e-6)
    assert z.dtype == np.float32
    rounded = wanted.astype(np.float16) * SCALE
    assert np.abs(rounded - wanted * np.float32(SCALE)).max() > 1e-3  # float16 would be seen


def test_a_model_without_float16_stays_as_it_is(small_bundle: Path) -> None:
    float32 = (small_bundle / "decoder.legacy.onnx").read_bytes()
    assert wide_model(float32) == float32


def test_a_file_that_was_cut_off_is_refused_or_shorter_but_never_an_unplanned_error(
    model: bytes,
) -> None:
    refused = 0
    for length in range(1, len(model)):
        try:
            wide_model(model[:length])
        except BundleError:
            refused += 1
    assert refused > 0.9 * (len(model) - 1)
