"""The ort lowering: few nodes, a cache written in place, and PyTorch's logits for any feeding."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_models import random_model, small_config, write_checkpoint

import edgegpt
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.lowerings import ORT
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.options import EngineOptions

LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "proj_bias": False,
    "ff_bias": False,
    "norm_bias": False,
    "head_bias": False,
    "n_embd": 64,
    "n_head": 4,
    "tie_embeddings": True,
}
POISON = 1e4


ORT_ONLY = ExportSettings(lowerings=("ort",))


def exported(
    folder: Path, settings: ExportSettings | None = ORT_ONLY, **changes: object
) -> tuple[GPT, Bundle]:
    model = random_model(small_config(**changes))
    checkpoint = write_checkpoint(folder / "ckpt", model, text=None)
    export_bundle(checkpoint, folder / "bundle", settings=settings)
    return model, Bundle.open(folder / "bundle")


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_embd": 64, "n_head": 4, "n_kv_head": 2}, LLAMA | {"n_kv_head": 1}, LLAMA],
    ids=["char", "grouped", "llama one kv head", "llama"],
)
def test_rows_of_different_length_in_pieces_match_pytorch(tmp_path: Path, changes: dict) -> None:
    """The operator cannot take several tokens per row on filled caches; the engine splits them."""
    model, bundle = exported(tmp_path, **changes)
    engine = open_engine(bundle, EngineOptions(threads=1))
    assert engine.graph.lowering == "ort"
    state = engine.new_state(3, 32)
    for cache in state.caches:
        cache[:] = POISON
    rng = np.random.default_rng(0)
    rows = rng.integers(0, model.config.vocab_size, (3, 32))
    done = np.zeros(3, dtype=np.int64)
    for fresh in ([4, 1, 7], [3, 3, 3], [1, 1, 1], [2, 5, 1], [1, 1, 1]):
        size = max(fresh)
        ids = rng.integers(0, model.config.vocab_size, (3, size))  # padding is noise
        for row, count in enumerate(fresh):
            ids[row, :count] = rows[row, done[row] : done[row] + count]
        state.step(ids, done, np.tile(np.arange(size), (3, 1)))
        logits = state.logits()
        for row, count in enumerate(fresh):
            with torch.no_grad():
                wanted = model(torch.tensor(rows[row, : done[row] + count])[None])[0, done[row] :]
            limit = 1e-5 * float(wanted.abs().max())
            np.testing.assert_allclose(logits[row, :count], wanted.numpy(), atol=limit)
        done = done + fresh


def test_single_steps_through_the_bound_buffers_are_ordinary_steps(tmp_path: Path) -> None:
    _, bundle = exported(tmp_path)
    engine = open_engine(bundle, EngineOptions(threads=1))
    bound, ordinary = engine.new_state(2, 32), engine.new_state(2, 32)
    ids = np.random.default_rng(0).integers(0, 40, (2, 12)) % bundle.manifest.model["vocab_size"]
    for step in range(12):
        past_len = np.array([step, max(step - 1, 0)])
        bound.next_ids[:, 0], bound.past_len[:] = ids[:, step], past_len
        bound.decode()
        ordinary.step(ids[:, step, None], past_len, np.zeros((2, 1), dtype=np.int64))
        np.testing.assert_array_equal(bound.logits(), ordinary.logits())


def kinds_of(bundle: Bundle) -> Counter[str]:
    return Counter(
        node.op_type for node in onnx.load(bundle.folder / "decoder.ort.onnx").graph.node
    )


def test_a_layer_of_the_character_gpt_is_fourteen_nodes(tmp_path: Path) -> None:
    _, bundle = exported(tmp_path, n_layer=3)
    assert kinds_of(bundle) == {
        "Gather": 2,
        "LayerNormalization": 7,
        "GroupQueryAttention": 3,
        "MatMul": 13,
        "Add": 17,  # of positions, and a layer's biases and residual streams; the head's bias
        "Relu": 3,
        "GatherND": 1,
    }


def test_norms_are_joined_with_additions_only_in_half_precision(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt", random_model(small_config(n_layer=3)), text=None)
    export_bundle(tmp_path / "ckpt", tmp_path / "half", precision="float16", settings=ORT_ONLY)
    kinds = kinds_of(Bundle.open(tmp_path / "half"))
    assert (kinds["SkipLayerNormalization"], kinds["LayerNormalization"]) == (7, 0)


def test_no_node_copies_the_cache(tmp_path: Path) -> None:
    """With a cache bound in place, ONNX Runtime writes the new slots and touches no other slot."""
    _, bundle = exported(tmp_path)
    engine = open_engine(bundle, EngineOptions(threads=1))
    state = engine.new_state(1, 32)
    addresses = [cache.ctypes.data for cache in state.caches]
    for cache in state.caches:
        cache[:] = POISON
    state.step(np.zeros((1, 5), dtype=np.int64), np.array([0]), np.array([[4]]))
    assert [cache.ctypes.data for cache in state.caches] == addresses
    for cache in state.caches:
        assert (abs(cache[:, :, :5]) < POISON).all()
        assert (cache[:, :, 5:] == POISON).all()


def test_heads_that_the_operator_cannot_rotate_are_left_to_the_other_lowerings(
    tmp_path: Path,
) -> None:
    _, bundle = exported(tmp_path, None, **(LLAMA | {"n_embd": 32}))
    assert local_lowerings(bundle) == ["standard", "legacy"]
    settings = ExportSettings(max_kl=1e9)
    receipt = export_bundle(
        tmp_path / "ckpt", tmp_path / "int8", precision="int8", settings=settings
    )
    assert receipt.passed
    assert local_lowerings(Bundle.open(tmp_path / "int8")) == ["standard"]


def test_onnxruntime_still_has_every_operator_of_the_lowering(tmp_path: Path) -> None:
    """The graph also loads without ONNX Runtime's optimizers: nothing relies on a fusion."""
    _, bundle = exported(tmp_path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = bundle.folder / "decoder.ort.onnx"
    assert onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_embd": 40}, "takes heads whose width is a multiple of 8 only, and .* are 20 wide"),
        ({"n_embd": 48, "position": "rope"}, "rotates heads .* multiple of 16 only, .* 24 wide"),
        ({"n_embd": 48}, None),
    ],
)
def test_heads_that_the_operator_does_not_take_are_an_obstacle(
    changes: dict, told: str | None
) -> None:
    found = ORT.obstacle(small_config(**changes))
    assert found is None if told is None else re.search(told, found)


def test_a_model_with_heads_20_wide_uses_another_lowering(tmp_path: Path) -> None:
    model = random_model(small_config(n_embd=40))
    receipt = export_bundle(write_checkpoint(tmp_path / "ckpt", model), tmp_path / "bundle")
    assert (receipt.outcome, receipt.lowering) == ("passed", "standard")
    with edgegpt.load(tmp_path / "bundle") as opened:
        found = opened.generate([1, 2, 3], max_new_tokens=12).token_ids
    ids = torch.tensor([[1, 2, 3, *found]])
    with torch.no_grad():
        assert model(ids)[0, 2:-1].argmax(-1).tolist() == found
