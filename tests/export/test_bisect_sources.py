"""Bisect names the first wrong place of an encoder-decoder, in its encoder or in its decoder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bisecting import change_graph, change_weight, graph_of, negated, places_of
from onnx import helper, numpy_helper
from pair_checkpoints import write_pair_checkpoint
from reseal import reseal
from safetensors.numpy import load_file, save_file
from seq2seq_models import T5, VARIANTS, seq2seq

from edgegpt.cli import main
from edgegpt.errors import BundleError, CheckpointError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.bisect import first_wrong
from edgegpt.export.bisect.places import part_of, place_names
from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME

LOWERINGS = ["ort", "standard", "legacy"]
GRAPHS = [f"{part}.{lowering}" for lowering in LOWERINGS for part in ("decoder", "encoder")]
SOURCES = [f"source_{kind}.{layer}" for layer in range(3) for kind in "kv"]

# The first table of biases by distance is that of all layers, and the head's is the embeddings'.
KEPT = (
    "decoder.blocks.0.attention",
    "decoder.blocks.1.source_attention",
    "decoder.head",
    "encoder.blocks.0.attention",
)

Specimen = tuple[Seq2Seq, Path]


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    """Models and their bundles, each with its checkpoint beside it. Read-only.

    "float32" has norms before its sub-layers, and a head of its own. "float16" has norms after them
    in the encoder, and some layers in float32.
    """
    models = {
        "float32": seq2seq(VARIANTS["umt5"]),
        "float16": seq2seq(T5, encoder=VARIANTS["bart"]),
    }
    made = {}
    for precision, model in models.items():
        folder = tmp_path_factory.mktemp(precision)
        settings = ExportSettings(keep_fp32=KEPT) if precision == "float16" else None
        checkpoint, out = write_pair_checkpoint(folder / "ckpt", model), folder / "bundle"
        assert export_bundle(checkpoint, out, precision=precision, settings=settings).passed
        made[precision] = model, out
    return made


def copied(specimens: dict[str, Specimen], name: str, folder: Path) -> Specimen:
    model, bundle = specimens[name]
    return model, Path(shutil.copytree(bundle, folder / "bundle"))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    ("name", "least", "most"), [("float32", 1e-8, 1e-5), ("float16", 1e-4, 2e-2)]
)
def test_a_clean_bundle_has_no_wrong_place(
    specimens: dict[str, Specimen], name: str, least: float, most: float, graph: str
) -> None:
    model, bundle = specimens[name]
    places = places_of(bundle, model, graph)
    assert first_wrong(places) is None
    assert [place.name for place in places] == place_names(part_of(model, graph_of(bundle, graph)))
    assert least < max(place.error for place in places) < most


def test_places_are_named_as_modules_and_outputs(specimens: dict[str, Specimen]) -> None:
    def named(name: str, part: str) -> list[str]:
        model, bundle = specimens[name]
        return place_names(part_of(model, graph_of(bundle, f"{part}.ort")))

    own = ["norm_1", "attention", "norm_2", "feed_forward"]
    block = [*(f"encoder.blocks.0.{place}" for place in own), "encoder.blocks.0"]
    encoder = named("float32", "encoder")
    assert encoder[:6] == ["encoder.embedding", *block]
    assert encoder[-7:] == ["encoder.norm_final", *SOURCES]
    assert named("float32", "decoder")[-5:] == [
        "decoder.blocks.2.norm_2",
        "decoder.blocks.2.feed_forward",
        "decoder.blocks.2",
        "decoder.norm_final",
        "logits",
    ]
    norms = [f"encoder.blocks.{layer}.norm_{norm}_sum" for layer in (0, 1) for norm in (1, 2)]
    assert named("float16", "encoder") == [*norms, *SOURCES]


def values_negated(array: np.ndarray) -> None:
    """Negate half of the columns: of the projection [C, 2 * H * D], those of values."""
    negated(array[:, array.shape[1] // 2 :])


def last_negated(array: np.ndarray) -> None:
    negated(array[-1])


# A weight, what is done to it, and the first wrong place, in the only graph that is wrong.
WEIGHT_FAULTS = {
    "float32": [
        ("encoder.blocks.1.attention.qkv.weight", negated, "encoder.blocks.1.attention"),
        ("encoder.norm_final.weight", negated, "encoder.norm_final"),
        ("decoder.blocks.1.source_attention.kv.weight", negated, "source_k.1"),
        ("decoder.blocks.1.source_attention.kv.weight", values_negated, "source_v.1"),
        ("decoder.blocks.2.source_attention.q.bias", negated, "decoder.blocks.2.source_attention"),
        ("decoder.blocks.1.norm_2.weight", negated, "decoder.blocks.1.norm_2"),
        ("decoder.head.weight", negated, "logits"),
    ],
    "float16": [
        ("encoder.position_embedding.weight", last_negated, "encoder.blocks.0.norm_1_sum"),
        ("encoder.blocks.1.feed_forward.up.weight", negated, "encoder.blocks.1.norm_2_sum"),
        ("decoder.blocks.0.source_attention.kv.weight", negated, "source_k.0"),
        ("decoder.blocks.2.feed_forward.down.weight", negated, "decoder.blocks.2.feed_forward"),
    ],
}


@pytest.mark.parametrize(
    ("name", "weight", "damage", "place"),
    [(name, *fault) for name, faults in WEIGHT_FAULTS.items() for fault in faults],
)
def test_a_damaged_weight_is_found_where_it_is_used(
    specimens: dict[str, Specimen],
    tmp_path: Path,
    name: str,
    weight: str,
    damage: Callable[[np.ndarray], None],
    place: str,
) -> None:
    model, bundle = copied(specimens, name, tmp_path)
    change_weight(bundle, weight, damage)
    of_encoder = place.startswith(("encoder.", "source_"))
    for lowering in LOWERINGS:
        in_encoder = first_wrong(places_of(bundle, model, f"encoder.{lowering}"))
        in_decoder = first_wrong(places_of(bundle, model, f"decoder.{lowering}"))
        assert (in_encoder, in_decoder) == ((place, None) if of_encoder else (None, place))


def test_a_damaged_weight_of_both_stacks_is_found_in_both_graphs(
    specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    model, bundle = copied(specimens, "float32", tmp_path)
    change_weight(bundle, "encoder.token_embedding.weight", negated)
    for part in ("encoder", "decoder"):
        assert first_wrong(places_of(bundle, model, f"{part}.ort")) == f"{part}.embedding"


def test_keys_and_values_of_other_layers_stay_right(
    specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    model, bundle = copied(specimens, "float32", tmp_path)
    change_weight(bundle, "decoder.blocks.1.source_attention.kv.weight", negated)
    places = places_of(bundle, model, "encoder.ort")
    assert [place.name for place in places if not place.passed] == ["source_k.1", "source_v.1"]


def sees_one_place_more(graph: onnx.GraphProto) -> None:
    """Let tokens attend to one place behind their source."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "source_len":
                node.input[index] = "longer"
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    graph.node.insert(0, helper.make_node("Add", ["source_len", "one"], ["longer"]))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("part", "place"),
    [("encoder", "encoder.blocks.0.attention"), ("decoder", "decoder.blocks.0.source_attention")],
)
def test_a_wrong_mask_of_sources_is_found_where_it_is_used(
    specimens: dict[str, Specimen], tmp_path: Path, part: str, place: str, lowering: str
) -> None:
    model, bundle = copied(specimens, "float32", tmp_path)
    change_graph(bundle, f"{part}.{lowering}", sees_one_place_more)
    assert first_wrong(places_of(bundle, model, f"{part}.{lowering}")) == place


def test_layers_in_float32_have_keys_and_values_in_float32(specimens: dict[str, Specimen]) -> None:
    _, bundle = specimens["float16"]
    for graph in GRAPHS:
        types = [port.dtype for port in graph_of(bundle, graph).sources()]
        assert types == ["float16"] * 2 + ["float32"] * 2 + ["float16"] * 2


def test_golden_prompts_without_sources_are_refused(
    specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    model, bundle = copied(specimens, "float32", tmp_path)
    tensors = load_file(bundle / GOLDEN_NAME)
    del tensors["chunked.source"], tensors["ragged.0.source"]
    save_file(tensors, bundle / GOLDEN_NAME)
    reseal(bundle)
    for part in ("encoder", "decoder"):
        with pytest.raises(BundleError, match=r"is damaged: chunked\.source is missing"):
            places_of(bundle, model, f"{part}.ort")


def test_a_checkpoint_without_an_encoder_is_refused(
    specimens: dict[str, Specimen], small_model: GPT
) -> None:
    _, bundle = specimens["float32"]
    with pytest.raises(CheckpointError, match="not the one of the bundle"):
        places_of(bundle, small_model, "encoder.ort")


@pytest.fixture
def bisected(specimens: dict[str, Specimen], capsys: pytest.CaptureFixture[str]):
    _, original = specimens["float32"]

    def run(bundle: Path, *options: str) -> tuple[int, str]:
        """Return exit code and output of the command."""
        with pytest.raises(SystemExit) as stop:
            main(["verify", str(bundle), "--bisect", str(original.parent / "ckpt"), *options])
        return int(stop.value.code or 0), capsys.readouterr().out

    return run


def test_the_command_exits_with_0_when_nothing_is_wrong(
    specimens: dict[str, Specimen], bisected
) -> None:
    code, out = bisected(specimens["float32"][1], "--json")
    assert code == 0
    found = {name: graph["first_wrong"] for name, graph in json.loads(out).items()}
    assert found == dict.fromkeys(GRAPHS)


def test_the_command_names_the_place_in_each_graph_and_exits_with_1(
    specimens: dict[str, Specimen], tmp_path: Path, bisected
) -> None:
    _, bundle = copied(specimens, "float32", tmp_path)
    change_weight(bundle, "encoder.blocks.0.feed_forward.up.weight", negated)
    code, out = bisected(bundle)
    assert code == 1
    assert out.count("first wrong place: encoder.blocks.0.feed_forward") == 3
    assert out.count("no place is wrong") == 3
