"""Reading and editing ONNX files without onnx: the results are those of onnx itself."""

from pathlib import Path

import onnx
import pytest

from edgegpt.runtime.bundle.onnx_file import graph_nodes, with_sizes
from edgegpt.runtime.errors import BundleError


@pytest.fixture
def model(small_bundle: Path) -> bytes:
    return (small_bundle / "decoder.standard.onnx").read_bytes()


def test_the_nodes_are_those_that_onnx_reads(model: bytes) -> None:
    expected = [
        (node.op_type, node.domain, node.name, list(node.input), list(node.output))
        for node in onnx.load_from_string(model).graph.node
    ]
    found = [(n.op_type, n.domain, n.name, n.inputs, n.outputs) for n in graph_nodes(model)]
    assert found == expected


@pytest.mark.parametrize("size", [1, 127, 128, 70_000])
def test_a_symbol_becomes_a_number_everywhere_and_nothing_else_changes(
    model: bytes, size: int
) -> None:
    expected = onnx.load_from_string(model)
    changed = 0
    for value in [*expected.graph.input, *expected.graph.output, *expected.graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "context":
                dimension.dim_value = size
                changed += 1
    assert changed >= 8  # keys and values of two layers, past and present
    assert onnx.load_from_string(with_sizes(model, {"context": size})) == expected


def test_without_such_a_symbol_the_bytes_stay_the_same(model: bytes) -> None:
    assert with_sizes(model, {"nothing": 3}) == model


def test_a_file_that_was_cut_off_is_refused_or_shorter_but_never_an_unplanned_error(
    model: bytes,
) -> None:
    refused = 0
    for length in range(1, len(model), 97):
        try:
            with_sizes(model[:length], {"context": 8})
        except BundleError:
            refused += 1
    assert refused > 0.9 * len(range(1, len(model), 97))


@pytest.mark.parametrize("raw", [b"not a model", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\xff\x7f"])
def test_what_is_no_onnx_file_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX file"):
        graph_nodes(raw)
