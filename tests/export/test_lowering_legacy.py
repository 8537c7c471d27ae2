"""The legacy lowering: one attention layer alone, and what a whole graph must not contain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attention_layer import KINDS, Layer, build, check_ragged_rows
from small_models import random_model, small_config

from edgegpt.export.graph import build_graph
from edgegpt.export.lowerings import LEGACY
from edgegpt.export.tracing import trace
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.support import SUPPORT

LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "proj_bias": False,
    "ff_bias": False,
    "norm_bias": False,
    "head_bias": False,
    "n_head": 4,
    "n_kv_head": 2,
    "tie_embeddings": True,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_prefill_chunk_and_decode_of_ragged_rows_match_float64(tmp_path: Path, kind: str) -> None:
    layer = Layer(KINDS[kind])
    session = build(LEGACY, layer, tmp_path / "layer.onnx")
    check_ragged_rows(session, layer, poison=float("nan"))
    check_ragged_rows(session, layer, poison=float("nan"), in_place=True)


@pytest.mark.parametrize("changes", [{"activation": "gelu_tanh"}, LLAMA], ids=["gelu", "llama"])
def test_the_graph_holds_plain_operators_of_opset_18_alone(changes: dict[str, object]) -> None:
    model = random_model(small_config(**changes))
    graph = build_graph(trace(model), LEGACY)
    assert graph.opset_imports == {"": 18}
    assert not graph.functions
    newest = {node.op_type: onnx.defs.get_schema(node.op_type, 18) for node in graph.graph}
    assert all(schema.since_version <= 18 for schema in newest.values())


def test_keys_and_values_of_grouped_heads_are_not_repeated() -> None:
    """Only slot numbers are expanded, once for all layers."""
    config = small_config(n_head=4, n_kv_head=1)
    graph = build_graph(trace(random_model(config)), LEGACY).graph
    scatters = {node.inputs[1].name for node in graph if node.op_type == "ScatterElements"}
    assert len(scatters) == 1
    for node in graph:
        assert node.op_type != "Tile"
        if node.op_type == "Expand" and node.outputs[0].name not in scatters:
            assert [use.node.op_type for use in node.outputs[0].uses()] == ["GatherElements"]


def test_an_onnxruntime_too_old_for_the_others_runs_it(
    small_bundle: Path, small_model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ort", "standard"):
        later = replace(SUPPORT["cpu", name], since=(999, 1))
        monkeypatch.setitem(SUPPORT, ("cpu", name), later)
    bundle = Bundle.open(small_bundle)
    assert local_lowerings(bundle) == ["legacy"]
    engine = open_engine(bundle, EngineOptions(threads=1))
    assert engine.graph.name == "decoder.legacy"
    state = engine.new_state(2, 32)
    for cache in state.caches:
        cache[:] = np.nan
    ids = np.random.default_rng(0).integers(0, 30, (2, 9))
    state.step(ids, np.zeros(2, dtype=np.int64), np.tile(np.arange(9), (2, 1)))
    with torch.no_grad():
        wanted = small_model(torch.from_numpy(ids)).numpy()
    assert np.abs(state.logits() - wanted).max() <= 1e-5 * np.abs(wanted).max()
