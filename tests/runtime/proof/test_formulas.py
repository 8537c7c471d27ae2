"""Which graphs count as one, on graphs of a few nodes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegpt.runtime.bundle.widening import wide_model
from edgegpt.runtime.errors import BundleError
from edgegpt.runtime.proof.formulas import Formulas, Reading

WIDE, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
TYPES = {WIDE: np.float32, HALF: np.float16}


def scaled(factor: float, kind: int, *, between: int | None = None) -> bytes:
    """Return the graph x * factor + factor, with casts to another type and back between."""
    constant = numpy_helper.from_array(np.array(factor, TYPES[kind]), f"of_{kind}")
    nodes = [helper.make_node("Mul", ["x", constant.name], ["product"])]
    if between is not None:
        nodes.append(helper.make_node("Cast", ["product"], ["other"], to=between))
        nodes.append(helper.make_node("Cast", ["other"], ["product_again"], to=kind))
    inner = helper.make_node("Constant", [], ["inner"], value=constant)
    nodes += [inner, helper.make_node("Add", [nodes[-1].output[0], "inner"], ["y"])]
    ports = [helper.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], [constant])
    return onnx.ModelProto(
        graph=graph, opset_import=[helper.make_opsetid("", 23)]
    ).SerializeToString()


def same(one: bytes, other: bytes, *, narrow: bool = False) -> bool:
    formulas = Formulas()
    first, second = (Reading(formulas, model, narrow=narrow) for model in (one, other))
    return first.ends == second.ends


def test_a_constant_is_its_value_wherever_it_stands() -> None:
    assert same(scaled(0.1, WIDE), scaled(0.1, WIDE))
    assert not same(scaled(0.1, WIDE), scaled(0.1000001, WIDE))


def test_half_precision_may_round_constants_and_cast_and_nothing_else() -> None:
    exact = scaled(0.1, WIDE)
    assert same(wide_model(scaled(0.1, HALF)), exact, narrow=True)
    assert same(wide_model(scaled(0.1, HALF, between=WIDE)), exact, narrow=True)
    assert not same(wide_model(scaled(0.101, HALF)), exact, narrow=True)
    assert not same(wide_model(scaled(0.1, HALF)), exact)


def test_elsewhere_a_cast_is_a_difference() -> None:
    assert not same(scaled(0.1, WIDE, between=HALF), scaled(0.1, WIDE))


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("Cast", []),
        ("MatMul", ["x"]),
        ("com.microsoft.MatMulNBits", ["x", "", ""]),
        ("com.microsoft.GatherBlockQuantized", ["x", "x"]),
        ("com.microsoft.MatMulIntegerToFloat", ["x"]),
        ("com.microsoft.SkipLayerNormalization", ["x", "x"]),
    ],
)
def test_an_operator_without_its_inputs_is_refused(kind: str, read: list[str]) -> None:
    domain, _, name = kind.rpartition(".")
    model = onnx.ModelProto()
    model.graph.node.append(helper.make_node(name, read, ["y"], domain=domain))
    with pytest.raises(BundleError, match=rf"an operator {kind} with .* inputs; export the bundle"):
        Reading(Formulas(), model.SerializeToString(), narrow=True)
