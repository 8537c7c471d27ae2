"""The decoder's ONNX graph: its operators, its ports, and what it must not contain."""

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from small_models import random_model, small_config

from edgegpt.export.graph import build_graph
from edgegpt.export.half_precision import in_half_precision
from edgegpt.export.lowerings import LOWERINGS
from edgegpt.export.tracing import trace
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Port

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def graph(small_bundle: Path) -> onnx.GraphProto:
    path = small_bundle / "decoder.standard.onnx"
    return onnx.load(path, load_external_data=False).graph


def test_the_full_checker_passes(small_bundle: Path) -> None:
    onnx.checker.check_model(small_bundle / "decoder.standard.onnx", full_check=True)


def test_the_versions_are_pinned(small_bundle: Path) -> None:
    model = onnx.load(small_bundle / "decoder.standard.onnx", load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    assert model.ir_version == 10


def test_each_layer_has_one_attention_and_two_scatters(graph: onnx.GraphProto) -> None:
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Attention"] == 2
    assert kinds["TensorScatter"] == 4


def test_the_mask_is_computed_once_for_all_layers(graph: onnx.GraphProto) -> None:
    masks = {node.input[3] for node in graph.node if node.op_type == "Attention"}
    assert len(masks) == 1
    assert sum(node.op_type == "LessOrEqual" for node in graph.node) == 1


def test_no_weight_is_transposed_at_run_time(graph: onnx.GraphProto) -> None:
    weights = {initializer.name for initializer in graph.initializer}
    turned = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights]
    assert not turned


def test_weights_keep_their_names_and_lie_outside(graph: onnx.GraphProto) -> None:
    outside = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert "blocks.1.feed_forward.down.weight" in outside
    assert "token_embedding.weight" in outside
    assert not any(name.startswith("val_") for name in outside)


def test_nothing_in_the_bundle_tells_where_it_was_made(small_bundle: Path) -> None:
    for file in small_bundle.iterdir():
        assert str(CHECKOUT).encode() not in file.read_bytes(), file.name
    model = ir.load(small_bundle / "decoder.standard.onnx")
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_the_manifest_describes_the_ports_by_role(small_bundle: Path) -> None:
    fused, graph, legacy = Bundle.open(small_bundle).manifest.graphs
    assert [(fused.name, fused.part), (graph.name, graph.part)] == [
        ("decoder.ort", "decoder"),
        ("decoder.standard", "decoder"),
    ]
    assert (legacy.name, legacy.part, legacy.opset) == ("decoder.legacy", "decoder", 18)
    assert (legacy.inputs, legacy.outputs) == (graph.inputs, graph.outputs)
    by_name = {port.name: port for port in fused.inputs}
    assert "past_len" not in by_name
    assert by_name["seqlens_k"] == Port("seqlens_k", "seqlens_k", "int32", ["batch"])
    rows = ["batch", "logit_positions", 1]
    assert by_name["logit_positions"] == Port("logit_positions", "logit_positions", "int64", rows)
    by_name = {port.name: port for port in [*graph.inputs, *graph.outputs]}
    assert by_name["ids"] == Port("ids", "ids", "int64", ["batch", "new_tokens"])
    assert by_name["past_len"] == Port("past_len", "past_len", "int64", ["batch"])
    cache = ["batch", 2, "context", 16]
    assert by_name["past_k.1"] == Port("past_k.1", "cache", "float32", cache, "present_k.1")
    assert by_name["present_v.0"] == Port("present_v.0", "cache", "float32", cache)
    assert by_name["logits"].shape[:2] == ["batch", "logit_positions"]
    assert len(graph.caches()) == 4


LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "relu2", "gated": True}


def test_a_model_is_traced_once_for_all_lowerings(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.onnx would trace it again for each, to decompose what has translations already."""

    def refuse(*_: object) -> None:
        raise AssertionError("the program was decomposed")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
    narrow = in_half_precision(random_model(small_config(**LLAMA)), "float16", ["blocks.0"])
    traced = trace(narrow)
    for lowering in LOWERINGS:
        build_graph(traced, lowering)


def test_an_operator_without_a_translation_is_decomposed() -> None:
    norm = torch.ops.aten.rms_norm.default
    program = trace(random_model(small_config(**LLAMA))).program
    assert norm in {node.target for node in program.graph.nodes}
    program = program.run_decompositions({norm: torch.export.default_decompositions()[norm]})
    assert norm not in {node.target for node in program.graph.nodes}
