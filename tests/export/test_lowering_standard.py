"""The standard lowering alone: one attention layer, against float64 without a cache."""

from pathlib import Path

import onnx
import pytest
from attention_layer import KINDS, Kind, Layer, build, check_ragged_rows

from edgegpt.export.lowerings import STANDARD

POISON = 1e4  # fills every cache slot before the test; not NaN, because 0 * NaN is NaN


@pytest.mark.parametrize("kind", list(KINDS))
def test_prefill_chunk_and_decode_of_ragged_rows_match_float64(tmp_path: Path, kind: str) -> None:
    layer = Layer(KINDS[kind])
    check_ragged_rows(build(STANDARD, layer, tmp_path / "layer.onnx"), layer, POISON)


def test_no_attention_output_is_left_unused(tmp_path: Path) -> None:
    build(STANDARD, Layer(Kind()), tmp_path / "layer.onnx")
    graph = onnx.load(tmp_path / "layer.onnx").graph
    (attention,) = [node for node in graph.node if node.op_type == "Attention"]
    assert [name for name in attention.output if name] == list(attention.output)[:1]
    assert len(attention.input) == 4
    assert attention.input[3]  # the mask
    assert sum(node.op_type == "TensorScatter" for node in graph.node) == 2
