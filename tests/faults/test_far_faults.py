"""Faults that show only far into a block of 600: no contiguous prompt reaches them.

As in the gallery, each is planted twice, and PyTorch measures how far it moves the golden logits.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from faults_graph import attribute, causal, constant, nodes, patched_attention
from faults_runtime import FaultyEngine, FaultyState
from onnx import helper
from reseal import reseal
from small_models import random_model, small_config, write_checkpoint
from torch_engine import TorchEngine

from edgegpt.export import export_bundle
from edgegpt.export.bisect import bisect, first_wrong
from edgegpt.export.past import torch_past
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden, Prompt
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify, verify_engine

TOLERANCE = TOLERANCES["float32"]
BLOCK, HALF = 600, 300


@dataclass(frozen=True)
class Fault:
    """The same damage in a bundle, of which it spoils one lowering or all, and in PyTorch."""

    bundle: Callable[[Path], None]
    model: Callable[[GPT, pytest.MonkeyPatch], None]
    lowerings: tuple[str, ...] = ("", "standard ", "legacy ")


def wrong_row(table: str, row: int) -> Fault:
    """Give a position the table's row of the position before it."""

    def in_bundle(bundle: Path) -> None:
        manifest = Bundle.open(bundle).manifest
        entry, path = manifest.weights[table], bundle / manifest.weights_file
        raw = bytearray(path.read_bytes())
        array = np.frombuffer(raw, np.float32, entry.size // 4, entry.offset).reshape(entry.shape)
        array[row] = array[row - 1]
        path.write_bytes(raw)

    def in_torch(model: GPT, _: pytest.MonkeyPatch) -> None:
        array = model.get_parameter(table) if table.endswith("weight") else getattr(model, table)
        with torch.no_grad():
            array[row] = array[row - 1]

    return Fault(in_bundle, in_torch)


def masked(lowering: str, hide: Callable[..., list], mask: Callable[[int], torch.Tensor]) -> Fault:
    """Let the mask of a lowering also ask what the nodes of `hide` compute."""

    def in_bundle(bundle: Path) -> None:
        path = bundle / f"decoder.{lowering}.onnx"
        proto = onnx.load(path, load_external_data=False)
        (compare,) = nodes(proto.graph, "LessOrEqual")
        slot, position, seen = compare.input[0], compare.input[1], compare.output[0]
        compare.output[0] = "seen_before"
        new = hide(proto.graph, slot, position)
        new.append(helper.make_node("And", ["seen_before", "also"], [seen]))
        place = list(proto.graph.node).index(compare) + 1
        rest = list(proto.graph.node)[place:]
        del proto.graph.node[place:]
        proto.graph.node.extend([*new, *rest])
        onnx.save(proto, path)

    def in_torch(_: GPT, patch: pytest.MonkeyPatch) -> None:
        patched_attention(patch, lambda scale: scale, mask)

    return Fault(in_bundle, in_torch, (f"{lowering} ",))


def only_near_half(graph: onnx.GraphProto, slot: str, _: str) -> list[onnx.NodeProto]:
    end = constant(graph, "half", np.array(HALF, dtype=np.int64))
    return [helper.make_node("Less", [slot, end], ["also"])]


def only_last_599(graph: onnx.GraphProto, slot: str, position: str) -> list[onnx.NodeProto]:
    width = constant(graph, "width", np.array(BLOCK - 1, dtype=np.int64))
    return [
        helper.make_node("Sub", [position, width], ["out_of_sight"]),
        helper.make_node("Greater", [slot, "out_of_sight"], ["also"]),
    ]


def near_half(length: int) -> torch.Tensor:
    mask = causal(length, 0)
    mask[:, HALF:] = False
    return mask


def last_599(length: int) -> torch.Tensor:
    return causal(length, 0).triu(2 - BLOCK)


def local_window(bundle: Path) -> None:
    path = bundle / "decoder.ort.onnx"
    proto = onnx.load(path, load_external_data=False)
    for node in nodes(proto.graph, "GroupQueryAttention"):
        attribute(node, "local_window_size").i = BLOCK - 1
    onnx.save(proto, path)


FAULTS = {
    "rotary: a wrong row of the cosines in the middle": wrong_row("rotary_cos_0", HALF + 10),
    "rotary: a wrong row of the sines at the end": wrong_row("rotary_sin_0", BLOCK - 1),
    "learned: a wrong row of the positions at the end": wrong_row(
        "position_embedding.weight", BLOCK - 1
    ),
    "rotary: standard: the far half is cut off": masked("standard", only_near_half, near_half),
    "rotary: legacy: the far half is cut off": masked("legacy", only_near_half, near_half),
    "rotary: standard: the first slot is out of sight at the end": masked(
        "standard", only_last_599, last_599
    ),
    "rotary: legacy: the first slot is out of sight at the end": masked(
        "legacy", only_last_599, last_599
    ),
    "rotary: ort: the first slot is out of sight at the end": Fault(
        local_window, masked("ort", only_last_599, last_599).model, ("",)
    ),
}


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GPT, Path]]:
    """Models with rotary and with learned positions, and their bundles."""
    result = {}
    kinds = {"rotary": {"position": "rope", "n_kv_head": 1}, "learned": {}}
    for kind, settings in kinds.items():
        folder = tmp_path_factory.mktemp(kind)
        model = random_model(small_config(block_size=BLOCK, **settings))
        write_checkpoint(folder / "ckpt", model)
        export_bundle(folder / "ckpt", folder / "bundle")
        result[kind] = model, folder / "bundle"
    return result


def movement(model: GPT, golden: Golden, prompts: list[Prompt]) -> float:
    """Return how far the plain path of a damaged model is from golden logits."""
    moved = 0.0
    for prompt in prompts:
        with torch.no_grad():
            past = torch_past(golden.past, prompt.past_len)
            logits = model(torch.from_numpy(prompt.ids)[None], past)[0].numpy()
        moved = max(moved, np.abs(logits - prompt.logits).max() / np.abs(prompt.logits).max())
    return float(moved)


@pytest.mark.parametrize("name", FAULTS)
def test_only_the_far_positions_show_it(
    specimens: dict[str, tuple[GPT, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    fault, (model, clean) = FAULTS[name], specimens[name.partition(":")[0]]
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    fault.bundle(bundle)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert failed == {f"{lowering}far positions" for lowering in fault.lowerings}

    golden, damaged = Golden.load(bundle / "golden.safetensors"), copy.deepcopy(model)
    fault.model(damaged, monkeypatch)
    far = movement(damaged, golden, golden.far)
    print(f"{name}: moves PyTorch by {far:.1e}")
    assert far > 30 * TOLERANCE
    assert movement(damaged, golden, [*golden.prefill, golden.chunked, *golden.ragged]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("rotary: a wrong row of the sines at the end", "blocks.0.attention"),
        ("learned: a wrong row of the positions at the end", "embedding"),
        ("rotary: ort: the first slot is out of sight at the end", "blocks.0.attention"),
    ],
)
def test_bisect_names_the_place(
    specimens: dict[str, tuple[GPT, Path]], tmp_path: Path, name: str, place: str
) -> None:
    model, clean = specimens[name.partition(":")[0]]
    folder = Path(shutil.copytree(clean, tmp_path / "bundle"))
    FAULTS[name].bundle(folder)
    reseal(folder)
    bundle = Bundle.open(folder)
    assert first_wrong(bisect(bundle, model, bundle.manifest.graphs[0])) == place


class CountsTo512(FaultyState):
    """Later tokens are all written into slot 512."""

    def before(self, ids, past_len, logit_positions):
        return ids, np.minimum(past_len, 512), logit_positions


@pytest.mark.parametrize("in_step", [True, False])
def test_a_runtime_that_counts_too_few_slots_is_caught(
    specimens: dict[str, tuple[GPT, Path]], in_step: bool
) -> None:
    model, folder = specimens["rotary"]
    bundle = Bundle.open(folder)
    for engine in (TorchEngine(model), open_engine(bundle, EngineOptions("cpu"))):
        receipt = verify_engine(bundle, FaultyEngine(engine, CountsTo512, in_step=in_step))
        failed = {check.name for check in receipt.checks if not check.passed}
        assert failed == {"far positions"}


def test_an_honest_torch_engine_passes(specimens: dict[str, tuple[GPT, Path]]) -> None:
    for model, folder in specimens.values():
        assert verify_engine(Bundle.open(folder), TorchEngine(model)).passed
