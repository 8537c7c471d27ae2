"""ONNX Runtime on the CPU: the options of its sessions, and the size of its states."""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgegpt
from edgegpt.errors import EdgeGPTWarning
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines import choice
from edgegpt.runtime.engines.base import PREFILL_CHUNK
from edgegpt.runtime.engines.ort import cpu, kernels
from edgegpt.runtime.engines.ort.kernels import NO_OVERFLOW
from edgegpt.runtime.proof.verify import verify

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("features", "guarded"),
    [
        (AVX512 | {"avx512_vnni"}, False),
        ({"avx2", "avx_vnni"}, False),
        (AVX512, True),
        (AVX512 | {"avx_vnni"}, True),  # whose kernels for AVX-512 would be taken
        ({"avx2", "avx512f", "avx512_vnni"}, True),
        ({"avx2"}, True),
        (set(), True),  # the system tells nothing
    ],
)
def test_int8_products_are_guarded_only_where_they_would_overflow(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, features: set[str], guarded: bool
) -> None:
    monkeypatch.setattr(kernels, "cpu_features", lambda: frozenset(features))
    options = []
    opened = cpu.open_session
    monkeypatch.setattr(
        cpu,
        "open_session",
        lambda *given, **named: options.append(given[3]) or opened(*given, **named),
    )
    with edgegpt.load(small_bundle, "cpu"):
        pass
    (given,) = options
    if guarded:
        assert given.get_session_config_entry(NO_OVERFLOW) == "1"
    else:
        with pytest.raises(RuntimeError, match=NO_OVERFLOW):
            given.get_session_config_entry(NO_OVERFLOW)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_call_has_a_cache_of_the_slots_that_it_needs(small_bundle: Path, beams: int) -> None:
    with edgegpt.load(small_bundle, "cpu") as model:
        sizes = []
        made = model.engine.new_state
        model.engine.new_state = lambda rows, context, sources=None: (
            sizes.append(context) or made(rows, context, sources)
        )
        model.generate([[1, 2, 3], [1]], max_new_tokens=4, num_beams=beams)
        model.generate([1, 2, 3], max_new_tokens=1)
        assert sizes == [7, 4]
        if beams == 1:  # beyond the context the text slides
            model.generate([1, 2, 3], max_new_tokens=2 * model.context)
            assert sizes[-1] == model.context


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    settings = ExportSettings(max_kl=1.0)
    export_bundle(small_checkpoint, folder, precision="int8", settings=settings)
    return folder


def test_without_int8_products_a_bundle_generates_from_its_other_graphs(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgegpt.load(int8) as model:
        assert model.engine.prefill is not None
    monkeypatch.setattr(choice, "multiplies_int8", lambda version: False)
    with edgegpt.load(int8) as model:
        assert model.engine.prefill is None
        assert len(model.generate([1, 2, 3], max_new_tokens=4).token_ids) == 4


def test_without_products_of_blocks_the_graph_for_prompts_generates(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "multiplies_blocks", lambda: False)
    receipt = verify(Bundle.open(int8))
    assert receipt.passed
    assert receipt.graph == "prefill.ort"
    with pytest.warns(EdgeGPTWarning, match="is not verified"):
        model = edgegpt.load(int8)
    with model:
        assert (model.engine.graph.part, model.engine.prefill) == ("prefill", None)
        assert len(model.generate([1, 2, 3], max_new_tokens=4).token_ids) == 4
    monkeypatch.setattr(choice, "multiplies_int8", lambda version: False)
    with edgegpt.load(int8) as model:
        assert model.engine.graph.part == "decoder"


def test_onnx_runtime_does_not_join_norms_and_additions(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its joined kernel is slower, see docs/speed.md; it joins them unless told not to."""
    opened = cpu.open_session
    optimised = tmp_path / "optimised.onnx"

    def open_and_write(
        runtime: Any, bundle: Bundle, graph: Graph, options: Any, *rest: Any, **named: Any
    ) -> Any:
        options.optimized_model_filepath = str(optimised)
        return opened(runtime, bundle, graph, options, *rest, **named)

    monkeypatch.setattr(cpu, "open_session", open_and_write)
    with edgegpt.load(small_bundle, "cpu"):
        pass
    nodes = onnx.load(optimised, load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert (kinds["SkipLayerNormalization"], kinds["LayerNormalization"]) == (0, 5)


def test_pieces_of_a_prompt_are_short_where_attention_computes_what_it_masks(
    small_bundle: Path,
) -> None:
    bundle, pieces = Bundle.open(small_bundle), {}
    for graph in bundle.manifest.graphs:
        if graph.lowering in ("ort", "standard"):
            engine = cpu.OrtEngine(bundle, graph, threads=1)
            pieces[graph.lowering] = engine.new_state(1, 8).prompt_piece
            engine.close()
    assert pieces == {"ort": cpu.PROMPT_PIECE, "standard": PREFILL_CHUNK}
    assert cpu.PROMPT_PIECE < PREFILL_CHUNK
