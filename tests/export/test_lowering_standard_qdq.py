"""Quantised weights in standard operators: the same numbers as the kernels of ONNX Runtime."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pair_checkpoints import write_pair_checkpoint
from seq2seq_models import VARIANTS, VOCABULARY, seq2seq
from small_models import random_model, small_config, write_checkpoint

from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.quantization import round_to_nearest
from edgegpt.runtime.bundle import derived_weights
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.derived_weights import (
    DERIVE,
    DERIVED_NAME,
    derived_tensors,
    graph_with_weights,
    write_derived,
)
from edgegpt.runtime.bundle.manifest import Graph, WeightEntry
from edgegpt.runtime.bundle.onnx_file import External, graph_nodes
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort import cpu as ort
from edgegpt.runtime.engines.ort.cpu import OrtEngine
from edgegpt.runtime.engines.ort.session import open_session
from edgegpt.runtime.engines.tensorrt.builder import build_plan, graph_for
from edgegpt.runtime.engines.tensorrt.flavour import import_flavour
from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.target import Target
from edgegpt.runtime.errors import BundleError
from edgegpt.runtime.generation.prefill import all_logits

ANY_LOSS = 1e9
LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "silu", "gated": True, "n_kv_head": 1}
TIED = {"tie_embeddings": True, "head_bias": False}


def exported(folder: Path, precision: str, keep: tuple[str, ...] = (), **shape: object) -> Bundle:
    write_checkpoint(folder / "ckpt", random_model(small_config(**shape)))
    settings = ExportSettings(keep, "rtn", max_kl=ANY_LOSS)
    export_bundle(folder / "ckpt", folder / "bundle", precision=precision, settings=settings)
    return Bundle.open(folder / "bundle")


def without_qdq_optimizer(runtime, bundle, graph, options, providers, **how):
    """Open a session without the QDQ optimizer: in onnxruntime 1.31, it adds bad zero points."""
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return open_session(runtime, bundle, graph, options, providers, **how)


def graph_of(bundle: Bundle, part: str = "exact") -> Graph:
    graphs = [graph for graph in bundle.manifest.graphs if graph.lowering == "standard-qdq"]
    (graph,) = [graph for graph in graphs if graph.part == part]
    return graph


@contextmanager
def on_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, encoder: Graph | None = None
) -> Iterator[OrtEngine]:
    """Open the graphs that are for TensorRT on ONNX Runtime, each beside its derived weights."""
    decoder = graph_of(bundle)
    with monkeypatch.context() as patch, ExitStack() as stack:
        patch.setattr(derived_weights, "_link", shutil.copyfile)  # onnxruntime refuses links
        patch.setattr(ort, "open_session", without_qdq_optimizer)
        paths = {
            graph.file: stack.enter_context(graph_with_weights(bundle, graph))
            for graph in (decoder, encoder)
            if graph is not None
        }
        beside = SimpleNamespace(file=lambda name: paths[name], manifest=bundle.manifest)
        yield OrtEngine(beside, decoder, None, 1, encoder=encoder)


def check_that_tensorrt_builds(bundle: Bundle, graph: Graph, limits: Limits) -> None:
    """Build the graph if TensorRT for RTX is installed."""
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        flavour = import_flavour("tensorrt-rtx")
        assert len(build_plan(flavour, bundle, graph, limits, Target("8.9"))) > 100_000


@pytest.fixture(scope="module")
def int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(tmp_path_factory.mktemp("int4"), "int4")


@pytest.mark.parametrize(
    ("precision", "shape", "keep"),
    [
        ("int8", {}, ()),
        ("int4", LLAMA | TIED, ()),
        ("int8", LLAMA | TIED, ()),
        ("int4", TIED, ("blocks.0",)),
    ],
    ids=["char int8", "llama int4", "llama int8", "int4, a layer kept"],
)
def test_the_graph_computes_what_the_exact_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, shape: dict, keep: tuple
) -> None:
    bundle = exported(tmp_path, precision, keep, **shape)
    ids = np.random.default_rng(0).integers(0, 34, (2, 20))
    expected = all_logits(
        open_engine(bundle, EngineOptions("cpu", 1), part="exact").new_state(2, 32), ids
    )
    with on_the_cpu(bundle, monkeypatch) as engine:
        found = all_logits(engine.new_state(2, 32), ids)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        assert graph_for(import_flavour("tensorrt-rtx"), bundle) == graph_of(bundle)
    check_that_tensorrt_builds(bundle, graph_of(bundle), Limits(2, 16))


@pytest.mark.parametrize(("precision", "variant"), [("int8", "paper"), ("int4", "t5")])
def test_the_graphs_of_an_encoder_decoder_compute_what_the_exact_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, variant: str
) -> None:
    model = seq2seq(VARIANTS[variant] | {"n_layer": 1}, decoder_layers=1)
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", model)
    settings = ExportSettings(method="rtn", max_kl=ANY_LOSS)
    export_bundle(checkpoint, tmp_path / "bundle", precision=precision, settings=settings)
    bundle, random = Bundle.open(tmp_path / "bundle"), np.random.default_rng(0)
    source, lengths = random.integers(0, VOCABULARY, (2, 9)), np.array([9, 4])
    ids = random.integers(0, VOCABULARY, (4, 8))

    def logits(engine: OrtEngine) -> np.ndarray:
        return all_logits(engine.new_state(4, 24, engine.encode(source, lengths)), ids)

    encoder = graph_of(bundle, "exact-encoder")
    expected = logits(open_engine(bundle, EngineOptions("cpu", 1), part="exact"))
    with on_the_cpu(bundle, monkeypatch, encoder) as engine:
        found = logits(engine)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    for graph in (encoder, graph_of(bundle)):
        check_that_tensorrt_builds(bundle, graph, Limits(4, 16, 12))


def test_all_operators_are_onnxs_own_and_the_file_is_gone_afterwards(int4_bundle: Bundle) -> None:
    graph = graph_of(int4_bundle)
    with graph_with_weights(int4_bundle, graph) as path:
        assert {node.domain for node in graph_nodes(path.read_bytes())} <= {"", "ai.onnx"}
        assert (path.parent / DERIVED_NAME).is_file()
    assert not path.parent.exists()
    assert not int4_bundle.has(DERIVED_NAME)
    assert DERIVED_NAME not in int4_bundle.manifest.files


def test_a_graph_without_derived_weights_is_read_where_it_lies(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    with graph_with_weights(bundle, bundle.manifest.graphs[0]) as path:
        assert path == bundle.file(bundle.manifest.graphs[0].file)


def test_blocks_that_do_not_fill_the_rows_give_no_such_graph(tmp_path: Path) -> None:
    bundle = exported(tmp_path, "int4", n_embd=48, n_head=3, n_ff=90)
    assert all(graph.lowering != "standard-qdq" for graph in bundle.manifest.graphs)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_integers_scales_and_corrections_are_the_weight(bits: int, symmetric: bool) -> None:
    rows, blocks, block = 6, 3, 16
    weight = torch.randn(rows, blocks * block, generator=torch.Generator().manual_seed(1))
    weight[0] += 2.0  # all values on one side give a scale of the other sign
    weight[1, :block] = 0.0
    quantised = round_to_nearest(weight, bits, block, symmetric=symmetric)
    scales = quantised.scales.copy()
    scales[2, 1] = 0.0
    stored = derived_weights._Stored(quantised.packed, scales, quantised.packed_zero_points(), bits)
    table = DERIVE["table"](stored).reshape(rows, -1)
    expected = quantised.dequantized().copy()
    expected[2, block : 2 * block] = 0.0
    np.testing.assert_array_equal(table, expected)
    magnitudes, corrections = DERIVE["magnitudes"](stored), DERIVE["corrections"](stored)
    assert (magnitudes > 0).all()
    assert (scales < 0).any() == symmetric
    raw = DERIVE["signed"](stored).reshape(rows, blocks, -1)
    numbers = raw if bits == 8 else np.stack([raw & 15, raw >> 4], -1).reshape(rows, blocks, -1)
    signed = numbers.astype(np.int16)
    signed[signed >= 2 ** (bits - 1)] -= 2**bits
    found = signed * magnitudes[:, :, None] + corrections.T[:, :, None]
    np.testing.assert_allclose(found.reshape(rows, -1), expected, atol=1e-6)


def test_a_weight_that_does_not_follow_is_named(int4_bundle: Bundle, tmp_path: Path) -> None:
    manifest, out = int4_bundle.manifest, tmp_path / "derived.bin"
    weights = int4_bundle.file(manifest.weights_file)

    def write(tensor: External, entries: dict[str, WeightEntry]) -> None:
        write_derived([tensor], manifest.quantization, weights, entries, out)

    wanted = derived_tensors(int4_bundle.file(graph_of(int4_bundle).file))
    (signed,) = [one for one in wanted if one.name == "head.weight.signed"]
    write(signed, manifest.weights)
    with pytest.raises(BundleError, match=r"wants the weight head\.weight, which the bundle does"):
        write(signed, {})
    with pytest.raises(BundleError, match=r"has \d+ bytes, not 7"):
        write(External(signed.name, DERIVED_NAME, 0, 7), manifest.weights)
    with pytest.raises(BundleError, match=r"head\.weight\.odd, which is none"):
        write(External("head.weight.odd", DERIVED_NAME, 0, 7), manifest.weights)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head.weight", {"shape": [34, 1, 17]}),
        ("head.weight", {"dtype": "F32"}),
        ("head.weight.scales", {"shape": [17, 2]}),
        ("head.weight.scales", {"size": 2**40}),
        ("head.weight.scales", {"shape": [34]}),
    ],
)
def test_damaged_weights_are_a_bundle_error(
    int4_bundle: Bundle, tmp_path: Path, name: str, change: dict
) -> None:
    manifest = int4_bundle.manifest
    wanted = derived_tensors(int4_bundle.file(graph_of(int4_bundle).file))
    weights = manifest.weights | {name: replace(manifest.weights[name], **change)}
    source, out = int4_bundle.file(manifest.weights_file), tmp_path / "derived.bin"
    with pytest.raises(BundleError, match=r"head\.weight.* is damaged"):
        write_derived(wanted, manifest.quantization, source, weights, out)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([External("a.table", DERIVED_NAME, 64, 4)], "a.table .* at a wrong place"),
        ([External("a.table", DERIVED_NAME, 2**60, 4)], "a.table .* at a wrong place"),
        ([External("a.table", DERIVED_NAME, 0, -1)], "a.table .* at a wrong place"),
        ([External("a.table", DERIVED_NAME, 0, 4)] * 2, "a.table .* at a wrong place"),
        (
            [External("a.table", DERIVED_NAME, 0, 4), External("a.table", DERIVED_NAME, 64, 4)],
            "several weights of one name",
        ),
    ],
)
def test_weights_that_would_make_a_huge_file_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tensors: list[External], words: str
) -> None:
    (tmp_path / "g.onnx").write_bytes(b"")
    monkeypatch.setattr(derived_weights, "external_tensors", lambda model: tensors)
    with pytest.raises(BundleError, match=words):
        derived_tensors(tmp_path / "g.onnx")


def test_files_of_one_name_in_two_folders_do_not_overwrite_each_other(
    int4_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(int4_bundle.folder, tmp_path / "copy")
    manifest, graph = int4_bundle.manifest, graph_of(int4_bundle)
    (tmp_path / "copy" / "b").mkdir()
    moved = f"b/{manifest.weights_file}"
    shutil.copy(tmp_path / "copy" / graph.file, tmp_path / "copy" / moved)
    files = manifest.files | {moved: manifest.files[graph.file]}
    bundle = Bundle(tmp_path / "copy", replace(manifest, files=files))
    with (
        pytest.raises(BundleError, match="is no graph of an int8 or int4 bundle"),
        graph_with_weights(bundle, replace(graph, file=moved)),
    ):
        pass
