"""The graph passes, each on a graph of a few nodes."""

import numpy as np
import onnx_ir as ir

from edgegpt.export.passes import FoldWeightTransposes, ShareDimensions


def parsed(text: str, **weights: np.ndarray) -> ir.Model:
    """Return a model from ONNX text, with `weights` as initializers instead of inputs."""
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 24]> {text}')
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


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


def test_a_whole_shape_is_left_alone() -> None:
    text = """agraph (float[B,T] x) => (int64[2] n) <float[B,T] h> {
        h = Relu (x)
        n = Shape (h)
    }"""
    assert not ShareDimensions()(parsed(text)).modified
