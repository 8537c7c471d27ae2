"""Bisect names the first wrong place, in the graph or in the weights, and changes no file."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bisecting import change_graph, change_weight, graph_of, negated, places_of

from edgegpt.checkpoint import load_checkpoint, save_config, save_weights
from edgegpt.cli import main
from edgegpt.errors import BundleError, CheckpointError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.bisect import bisect, first_wrong
from edgegpt.export.bisect.places import part_of, place_names
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle

GRAPHS = ["decoder.ort", "decoder.standard", "decoder.legacy"]


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_clean_bundle_has_no_wrong_place(
    small_bundle: Path, small_model: GPT, graph: str
) -> None:
    places = places_of(small_bundle, small_model, graph)
    assert first_wrong(places) is None
    assert [place.name for place in places] == place_names(
        part_of(small_model, graph_of(small_bundle, graph))
    )
    assert 0 < max(place.error for place in places) < 1e-5


def swap_q_and_k(array: np.ndarray) -> None:
    array[:, :32], array[:, 32:64] = array[:, 32:64].copy(), array[:, :32].copy()


WEIGHT_FAULTS = {
    "position_embedding.weight": (np.negative, "embedding"),
    "blocks.0.norm_1.bias": (np.negative, "blocks.0.norm_1"),
    "blocks.1.attention.qkv.weight": (None, "blocks.1.attention"),
    "blocks.1.attention.proj.bias": (np.negative, "blocks.1.attention"),
    "blocks.0.norm_2.weight": (np.negative, "blocks.0.norm_2"),
    "blocks.1.feed_forward.down.weight": (np.negative, "blocks.1.feed_forward"),
    "norm_final.weight": (np.negative, "norm_final"),
    "head.bias": (np.negative, "logits"),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_a_damaged_weight_is_found_where_it_is_used(
    bundle: Path, small_model: GPT, name: str, graph: str
) -> None:
    function, place = WEIGHT_FAULTS[name]
    damage = swap_q_and_k if function is None else lambda array: function(array, out=array)
    change_weight(bundle, name, damage)
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    places = places_of(bundle, small_model, graph)
    assert first_wrong(places) == place
    errors = [p.error for p in places]
    wrong = next(index for index, p in enumerate(places) if not p.passed)
    assert max(errors[:wrong], default=0) < 1e-5
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def wrong_weights_in_block_1(graph: onnx.GraphProto) -> None:
    """Make the scores a little larger or, if there is a Softmax node, keep only the largest one."""
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    if softmaxes:
        softmaxes[1].op_type = "Hardmax"
        return
    node = [node for node in graph.node if node.op_type.endswith("Attention")][1]
    next(a for a in node.attribute if a.name == "scale").f *= 1.01


def wrong_epsilon_in_block_0(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type.endswith("LayerNormalization")][1]
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-3


def relu_left_out_of_block_1(graph: onnx.GraphProto) -> None:
    [node for node in graph.node if node.op_type == "Relu"][1].op_type = "Tanh"


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    ("change", "place"),
    [
        (wrong_weights_in_block_1, "blocks.1.attention"),
        (wrong_epsilon_in_block_0, "blocks.0.norm_2"),
        (relu_left_out_of_block_1, "blocks.1.feed_forward"),
    ],
)
def test_a_damaged_graph_is_found_at_its_node(
    bundle: Path,
    small_model: GPT,
    change: Callable[[onnx.GraphProto], None],
    place: str,
    graph: str,
) -> None:
    change_graph(bundle, graph, change)
    assert first_wrong(places_of(bundle, small_model, graph)) == place


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, "blocks.1.feed_forward"),
        ({"parallel": True}, "norm_final"),
        ({"norm_placement": "sandwich", "qk_norm": "head"}, "blocks.1.norm_2_out"),
        ({"norm_placement": "output", "qk_norm": "full"}, "blocks.1.norm_2_out"),
        ({"norm_placement": "post", "final_norm": False}, "blocks.1.norm_2_sum"),
    ],
)
def test_a_model_with_other_switches_can_be_bisected(
    tmp_path: Path, changes: dict[str, object], place: str
) -> None:
    sizes = {"vocab_size": 20, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 64}
    kind = {
        "n_kv_head": 2,
        "norm": "rmsnorm",
        "position": "rope",
        "activation": "silu",
        "gated": True,
    }
    torch.manual_seed(0)
    model = GPT(
        GPTConfig.from_dict(
            sizes | kind | changes | {"proj_bias": False, "ff_bias": False, "norm_bias": False}
        )
    ).eval()
    (tmp_path / "ckpt").mkdir()
    save_config(tmp_path / "ckpt", model.config)
    save_weights(tmp_path / "ckpt", model, torch.float32)
    export_bundle(tmp_path / "ckpt", tmp_path / "bundle")
    for graph in GRAPHS:
        assert first_wrong(places_of(tmp_path / "bundle", model, graph)) is None
    damage = "blocks.1.feed_forward.gate.weight"
    change_weight(tmp_path / "bundle", damage, negated)
    for graph in GRAPHS:
        places = places_of(tmp_path / "bundle", model, graph)
        assert first_wrong(places) == place


def test_a_quantised_bundle_is_refused(
    small_checkpoint: Path, small_model: GPT, tmp_path: Path
) -> None:
    settings = ExportSettings(max_kl=1e9)
    export_bundle(small_checkpoint, tmp_path / "bundle", precision="int8", settings=settings)
    with pytest.raises(BundleError, match="cannot bisect a bundle in int8"):
        places_of(tmp_path / "bundle", small_model, "decoder.ort")


def test_a_float16_bundle_with_layers_in_float32_can_be_bisected(
    small_checkpoint: Path, small_model: GPT, tmp_path: Path
) -> None:
    bundle, kept = tmp_path / "bundle", ExportSettings(keep_fp32=("blocks.1.attention", "head"))
    export_bundle(small_checkpoint, bundle, precision="float16", settings=kept)
    for graph in GRAPHS:
        places = places_of(bundle, small_model, graph)
        assert first_wrong(places) is None
        assert max(place.error for place in places) > 1e-4  # it does compute in float16
    change_weight(bundle, "blocks.1.feed_forward.down.weight", negated)
    for graph in GRAPHS:
        assert first_wrong(places_of(bundle, small_model, graph)) == "blocks.1.feed_forward"


def test_a_bfloat16_bundle_is_refused(small_bundle: Path, small_model: GPT) -> None:
    bundle = Bundle.open(small_bundle)
    bundle = replace(bundle, manifest=replace(bundle.manifest, precision="bfloat16"))
    with pytest.raises(BundleError, match="in bfloat16: onnxruntime runs no bfloat16 on a CPU"):
        bisect(bundle, small_model, bundle.manifest.graphs[0])


def test_a_checkpoint_of_another_model_is_refused(small_bundle: Path) -> None:
    other = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    with pytest.raises(CheckpointError, match=r"vocab_size is 5 in the checkpoint, and \d+ in"):
        places_of(small_bundle, other, "decoder.ort")


def test_the_command_names_the_place_and_exits_with_1(
    bundle: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_checkpoint(small_checkpoint)
    change_weight(bundle, "blocks.0.attention.proj.weight", negated)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(bundle), "--bisect", str(small_checkpoint)])
    assert stop.value.code == 1
    assert "first wrong place: blocks.0.attention" in capsys.readouterr().out


def test_the_command_exits_with_0_when_nothing_is_wrong(
    small_bundle: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(small_bundle), "--bisect", str(small_checkpoint), "--json"])
    assert stop.value.code == 0
    body = json.loads(capsys.readouterr().out)
    assert list(body) == GRAPHS
    for graph in GRAPHS:
        assert body[graph]["first_wrong"] is None
        assert len(body[graph]["places"]) == 13
