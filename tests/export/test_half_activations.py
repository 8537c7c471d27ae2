"""The graph of a quantised bundle with activations in float16, which is for GPUs."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from host_engine import host_engine
from small_models import random_model, small_config, write_checkpoint
from uneven_shapes import UNEVEN

from edgegpt.cli import main
from edgegpt.errors import EdgeGPTWarning
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export import bundle as exporting
from edgegpt.export.passes import fuse_skip_norms
from edgegpt.runtime.bundle.bundle import RECEIPT_NAME, Bundle
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.generation.prefill import all_logits
from edgegpt.runtime.proof import verify as proof
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify, verify_engine

ANY_LOSS = 1e9  # of untrained models
SHAPES = {
    "char": {},
    "gelu, tied": {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True}
    | {"head_bias": False},
    **UNEVEN,
}
IDS = np.arange(24).reshape(1, 24) % 30


def exported(folder: Path, precision: str, model: torch.nn.Module, **settings: object) -> Bundle:
    write_checkpoint(folder / "ckpt", model)
    wanted = ExportSettings(method="rtn", max_kl=ANY_LOSS, fast_prefill=False, **settings)
    export_bundle(folder / "ckpt", folder / "bundle", precision=precision, settings=wanted)
    return Bundle.open(folder / "bundle")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("half")
    return exported(folder, "int4", random_model(small_config(**SHAPES["llama, tied"])))


def half_of(bundle: Bundle) -> Graph:
    return next(graph for graph in bundle.manifest.graphs if graph.part == "half")


def on_the_cpu(bundle: Bundle, part: str) -> np.ndarray:
    engine = open_engine(bundle, EngineOptions("cpu", 1), part=part, as_written=part == "half")
    return all_logits(engine.new_state(1, IDS.shape[1]), IDS)


@pytest.mark.parametrize(
    ("name", "precision"), [("char", "int8"), ("gelu, tied", "int4"), ("odd width", "int4")]
)
def test_it_computes_what_the_integers_stand_for_as_well_as_float16_can(
    tmp_path: Path, name: str, precision: str
) -> None:
    bundle = exported(tmp_path, precision, random_model(small_config(**SHAPES[name])))
    exact, half = on_the_cpu(bundle, "exact"), on_the_cpu(bundle, "half")
    error = np.abs(half - exact).max() / np.abs(exact).max()
    assert TOLERANCES["float32"] < error < TOLERANCES["float16"]
    names = [check.name for check in verify(bundle).checks if check.name.startswith("half ")]
    assert len(names) == 7  # six of its results, one of its nodes


def test_its_caches_are_narrow_and_no_weight_is_stored_twice(bundle: Bundle) -> None:
    assert {port.dtype for port in half_of(bundle).caches()} == {"float16"}
    assert {entry.dtype for entry in bundle.manifest.weights.values()} == {"U8", "F32"}
    others = {
        name
        for graph in bundle.manifest.graphs
        if graph.part in ("decoder", "exact") and graph.lowering != "standard-qdq"
        for name in stored_names(bundle, graph)
    }
    assert stored_names(bundle, half_of(bundle)) <= others
    assert bundle.manifest.kept == []
    cpu, cuda = (memory_needed(bundle, backend=backend).cache for backend in ("cpu", "cuda"))
    assert cuda == cpu / 2


def stored_names(bundle: Bundle, graph: Graph) -> set[str]:
    proto = onnx.load(bundle.file(graph.file), load_external_data=False).graph
    outside = onnx.TensorProto.EXTERNAL
    return {one.name for one in proto.initializer if one.data_location == outside}


def test_onnxruntime_casts_the_weights_when_it_opens_the_graph(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A cast that it left would be a kernel more in each step."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    options.log_severity_level = 3
    path = bundle.file(half_of(bundle).file)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    opened = onnx.load(tmp_path / "opened.onnx", load_external_data=False).graph
    written = onnx.load(path, load_external_data=False).graph
    inputs = {one.name for one in (*opened.initializer, *opened.input)}
    casts = [node.input[0] for node in opened.node if node.op_type == "Cast"]
    assert not inputs.intersection(casts)
    assert Counter(node.op_type for node in written.node)["Cast"] > 10


def test_a_layer_that_float16_cannot_hold_stays_in_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model(small_config())
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight.mul_(3e5)
        model.blocks[1].feed_forward.down.weight.div_(3e5)
    bundle = exported(tmp_path, "int8", model)
    assert bundle.manifest.kept == ["blocks.1.feed_forward"]
    exact, half = on_the_cpu(bundle, "exact"), on_the_cpu(bundle, "half")
    assert np.abs(half - exact).max() < TOLERANCES["float16"] * np.abs(exact).max()
    assert {port.dtype for port in half_of(bundle).caches()} == {"float16"}
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(bundle.folder)])
    assert "int8, blocks.1.feed_forward kept in float32 for CUDA" in capsys.readouterr().out


def test_a_wrong_cast_fails_the_proof_and_names_the_graph(bundle: Bundle, tmp_path: Path) -> None:
    """Each scale is read as if its weight were another's; the exact graphs do not notice."""
    path = bundle.file(half_of(bundle).file)
    proto = onnx.load(path, load_external_data=False)
    casts = [node for node in proto.graph.node if node.op_type == "Cast"]
    scales = next(node for node in casts if node.input[0].endswith("up.weight.scales"))
    gate = next(node for node in casts if node.input[0].endswith("gate.weight.scales"))
    scales.input[0], gate.input[0] = gate.input[0], scales.input[0]
    clean = path.read_bytes()
    try:
        path.write_bytes(proto.SerializeToString())
        receipt = verify(bundle, check="size")
    finally:
        path.write_bytes(clean)
    failed = {check.name for check in receipt.checks if not check.passed}
    assert failed
    assert all(name.startswith("half ") for name in failed)


def test_where_float16_is_too_coarse_the_graph_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "float16", 1e-5)
    with pytest.warns(EdgeGPTWarning, match=r"float16 activations is left out.* half .* is off by"):
        bundle = exported(tmp_path, "int8", random_model(small_config()))
    assert all(graph.part != "half" for graph in bundle.manifest.graphs)
    assert not list(bundle.folder.glob("half*"))
    receipt = json.loads((bundle.folder / RECEIPT_NAME).read_bytes())
    assert receipt["bundle_id"] == bundle.manifest.id
    assert not [one["name"] for one in receipt["checks"] if one["name"].startswith("half ")]
    assert verify(bundle).passed  # hashes, too


def test_one_that_is_not_the_graph_proved_is_left_out_however_little_it_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = fuse_skip_norms._fuse

    def with_another_epsilon(graph: ir.Graph, total: ir.Node, norm: ir.Node) -> None:
        norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 2e-5)
        fuse(graph, total, norm)

    monkeypatch.setattr(fuse_skip_norms, "_fuse", with_another_epsilon)
    with pytest.warns(EdgeGPTWarning, match="is left out.*: half graph: 5 of 17 are wrong"):
        bundle = exported(tmp_path, "int8", random_model(small_config()))
    assert all(graph.part != "half" for graph in bundle.manifest.graphs)


def test_a_gpu_that_fails_with_it_gets_a_bundle_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it generates, so its checks have no name before them."""

    def on_a_gpu(bundle: Bundle, *settings: object, **more: object) -> Receipt:
        receipt = verify(bundle, *settings, **more)
        if all(graph.part != "half" for graph in bundle.manifest.graphs):
            return receipt
        checks = [dataclasses.replace(receipt.checks[1], passed=False), *receipt.checks[2:]]
        return dataclasses.replace(receipt, graph="half.ort", checks=checks)

    monkeypatch.setattr(exporting, "verify", on_a_gpu)
    with pytest.warns(EdgeGPTWarning, match=r"float16 activations is left out.*: prefill is off"):
        bundle = exported(tmp_path, "int8", random_model(small_config()))
    assert all(graph.part != "half" for graph in bundle.manifest.graphs)
    assert verify(bundle).passed


@pytest.mark.parametrize("sums", [True, False])
def test_it_is_not_proved_where_the_cpu_would_sum_in_float16(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, sums: bool
) -> None:
    monkeypatch.setattr(proof, "sums_in_float32", lambda: sums)
    names = [check.name for check in verify(bundle).checks]
    assert ("half prefill" in names) is sums


def test_the_engine_of_cuda_proves_it_with_the_tolerance_of_float16(bundle: Bundle) -> None:
    manifest = dataclasses.replace(bundle.manifest, graphs=[half_of(bundle)])
    engine = host_engine(Bundle(bundle.folder, manifest))
    receipt = verify_engine(bundle, engine)
    engine.close()
    assert receipt.passed
    assert receipt.graph == "half.ort"
    assert {check.tolerance for check in receipt.checks if check.name != "tokenizer"} == {
        TOLERANCES["float16"]
    }


def test_a_weight_that_stays_in_float32_is_cast_with_its_transpose(tmp_path: Path) -> None:
    keep = ("blocks.0.feed_forward.up.weight",)
    bundle = exported(tmp_path, "int8", random_model(small_config()), keep_fp32=keep)
    assert bundle.manifest.quantization.kept == [*keep]
    exact, half = on_the_cpu(bundle, "exact"), on_the_cpu(bundle, "half")
    assert np.abs(half - exact).max() < TOLERANCES["float16"] * np.abs(exact).max()


def test_no_other_target_gets_it(tmp_path: Path) -> None:
    model = random_model(small_config())
    bundle = exported(tmp_path, "int8", model, lowerings=("standard",))
    assert all(graph.part != "half" for graph in bundle.manifest.graphs)
