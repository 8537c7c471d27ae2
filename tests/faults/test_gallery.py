"""The fault gallery: the proof must find every planted fault.

Each fault is planted twice: in a bundle (or a runtime), and in PyTorch, which measures how far it
moves the golden logits. With the hashes on, every damaged file must be refused. The manifest is
then adapted to the damage, so that only the computation can show it; the receipt must fail whenever
the movement is above 3 x tolerance. `pytest tests/faults -s` prints the table.
"""

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from faults_graph import GRAPH_FAULTS
from faults_runtime import DECODING_FAULTS, RUNTIME_FAULTS, FaultyEngine
from faults_weights import WEIGHT_FAULTS, Weights
from reseal import reseal
from torch_engine import TorchEngine

from edgegpt.checkpoint import save_config, save_weights
from edgegpt.errors import BundleError
from edgegpt.export import export_bundle
from edgegpt.export.past import torch_past
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify, verify_engine
from edgegpt.training.char_tokenizer import build_char_tokenizer

TOLERANCE = TOLERANCES["float32"]
WEIGHTS = "weights.safetensors"
TEXT = "pack my box with five dozen liquor jugs, quoth the vexed zebra fanning " * 8
TABLE: list[tuple[str, float, str, float]] = []


@dataclass(frozen=True)
class Specimen:
    """A model and its bundle."""

    model: GPT
    bundle: Path


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    """Models with ReLU, with GELU, and with rotary positions. Every weight affects the output."""
    result = {}
    kinds: dict[str, dict[str, object]] = {
        "relu": {"activation": "relu"},
        "gelu": {"activation": "gelu"},
        "rotary": {"activation": "relu", "position": "rope", "n_kv_head": 1},
    }
    for kind, settings in kinds.items():
        folder = tmp_path_factory.mktemp(kind)
        sizes = {"vocab_size": len(set(TEXT)), "block_size": 32, "n_layer": 2, "n_head": 2}
        config = GPTConfig.from_dict({"n_embd": 32, "head_bias": True} | sizes | settings)
        torch.manual_seed(0)
        model = GPT(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        (folder / "ckpt").mkdir()
        save_config(folder / "ckpt", config)
        save_weights(folder / "ckpt", model, torch.float32)
        (folder / "ckpt" / "tokenizer.json").write_text(build_char_tokenizer(TEXT).to_str())
        (folder / "ckpt" / "held_out.txt").write_text(TEXT)
        export_bundle(folder / "ckpt", folder / "bundle")
        result[kind] = Specimen(model, folder / "bundle")
    return result


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print the table after the tests, with the faults that move too little in a separate part."""
    yield
    clear = [row for row in TABLE if row[1] > 3 * TOLERANCE]
    small = [row for row in TABLE if row[1] <= 3 * TOLERANCE]
    print(f"\n\n{'fault':<48}{'moves PyTorch by':>18}  {'caught by':<14}{'figure':>10}")
    for row in [*sorted(clear), None, *sorted(small)]:
        if row is None:
            print("-- moves PyTorch by at most 3 x tolerance --" * bool(small))
        else:
            print(f"{row[0]:<48}{row[1]:>18.1e}  {row[2]:<14}{row[3]:>10.1e}")
    print(f"{len(clear)} above, {len(small)} below the limit")


def judge(fault: str, movement: float, receipt: Receipt) -> None:
    """Add the fault to the table; assert that the receipt failed if the fault moves enough."""
    failed = [check for check in receipt.checks if not check.passed]
    worst = max(receipt.checks, key=lambda check: check.difference.relative)
    caught = failed[0].name if failed else "-"
    TABLE.append((fault, movement, caught, worst.difference.relative))
    if movement > 3 * TOLERANCE:
        assert failed, f"{fault} moves PyTorch's logits by {movement:.1e} and was not caught"


def movement_of(bundle: Path, model: GPT) -> float:
    """Return how far the plain path of a damaged model is from the golden logits."""
    golden = Golden.load(bundle / "golden.safetensors")
    moved = 0.0
    for prompt in [*golden.prefill, golden.chunked, *golden.ragged, *golden.far]:
        with torch.no_grad():
            ids, past = (
                torch.from_numpy(prompt.ids)[None],
                torch_past(golden.past, prompt.past_len),
            )
            logits = model(ids, past)[0].numpy()
        error = np.abs(logits - prompt.logits).max() / np.abs(prompt.logits).max()
        moved = max(moved, float(np.nan_to_num(error, nan=np.inf, posinf=np.inf)))
    return moved


def refused(bundle: Path) -> None:
    """Assert that the damaged files are refused while hashes are checked."""
    with pytest.raises(BundleError):
        verify(Bundle.open(bundle), check="hash")


def is_turned(name: str) -> bool:
    """Return whether the bundle stores this weight transposed, as it does for MatMul."""
    layers = ("qkv.weight", "proj.weight", "up.weight", "down.weight", "head.weight")
    return name.endswith(layers)


def read_weights(bundle: Path) -> Weights:
    raw = (bundle / WEIGHTS).read_bytes()
    weights = {}
    for name, entry in Bundle.open(bundle).manifest.weights.items():
        flat = np.frombuffer(raw, np.float32, entry.size // 4, entry.offset)
        array = flat.reshape(entry.shape)
        weights[name] = np.ascontiguousarray(array.T if is_turned(name) else array).copy()
    return weights


def write_weights(bundle: Path, weights: Weights) -> None:
    raw = bytearray((bundle / WEIGHTS).read_bytes())
    for name, entry in Bundle.open(bundle).manifest.weights.items():
        array = weights[name].T if is_turned(name) else weights[name]
        raw[entry.offset : entry.offset + entry.size] = np.ascontiguousarray(array).tobytes()
    (bundle / WEIGHTS).write_bytes(raw)


@pytest.fixture
def bundle(specimens: dict[str, Specimen], tmp_path: Path) -> Path:
    return Path(shutil.copytree(specimens["relu"].bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_a_wrong_weight_is_caught(specimens: dict[str, Specimen], bundle: Path, fault: str) -> None:
    weights = read_weights(bundle)
    WEIGHT_FAULTS[fault](weights)
    damaged = copy.deepcopy(specimens["relu"].model)
    damaged.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in weights.items()})
    write_weights(bundle, weights)
    refused(bundle)
    reseal(bundle)
    movement = movement_of(bundle, damaged)
    judge(fault, movement, verify(Bundle.open(bundle), check="size"))


@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_a_wrong_graph_is_caught(
    specimens: dict[str, Specimen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    planted = GRAPH_FAULTS[fault]
    specimen = specimens[planted.specimen]
    bundle = Path(shutil.copytree(specimen.bundle, tmp_path / "bundle"))
    file = f"decoder.{planted.lowering}.onnx"
    proto = onnx.load(bundle / file, load_external_data=False)
    before = proto.SerializeToString()
    planted.graph(proto.graph)
    assert proto.SerializeToString() != before
    (bundle / file).write_bytes(proto.SerializeToString())
    refused(bundle)
    reseal(bundle)
    damaged = copy.deepcopy(specimen.model)
    with monkeypatch.context() as patch:
        planted.model(damaged, patch)
        movement = movement_of(bundle, damaged)
    judge(fault, movement, verify(Bundle.open(bundle), check="size"))


@pytest.mark.parametrize("fault", RUNTIME_FAULTS)
def test_a_wrong_runtime_is_caught(specimens: dict[str, Specimen], fault: str) -> None:
    specimen, wrap = specimens["relu"], RUNTIME_FAULTS[fault]
    bundle = Bundle.open(specimen.bundle)
    in_torch = verify_engine(bundle, FaultyEngine(TorchEngine(specimen.model), wrap))
    movement = max(check.difference.relative for check in in_torch.checks)
    receipt = verify_engine(bundle, FaultyEngine(open_engine(bundle, EngineOptions("cpu")), wrap))
    judge(fault, movement, receipt)
    assert movement > 3 * TOLERANCE  # otherwise this test would show nothing


@pytest.mark.parametrize("fault", DECODING_FAULTS)
def test_a_runtime_that_is_wrong_in_decode_alone_is_caught(
    specimens: dict[str, Specimen], fault: str
) -> None:
    """Prompts are fed correctly; only `decode`, which writes the text, has the fault."""
    specimen, wrap = specimens["relu"], RUNTIME_FAULTS[fault]
    bundle = Bundle.open(specimen.bundle)
    in_torch = verify_engine(bundle, FaultyEngine(TorchEngine(specimen.model), wrap, in_step=False))
    movement = max(check.difference.relative for check in in_torch.checks)
    engine = FaultyEngine(open_engine(bundle, EngineOptions("cpu")), wrap, in_step=False)
    receipt = verify_engine(bundle, engine)
    judge(f"in decode: {fault}", movement, receipt)
    assert movement > 3 * TOLERANCE
    failed = {check.name for check in receipt.checks if not check.passed}
    assert failed - {"far positions"} == {"decode", "continuation"}


def test_an_honest_torch_engine_passes(specimens: dict[str, Specimen]) -> None:
    specimen = specimens["relu"]
    assert verify_engine(Bundle.open(specimen.bundle), TorchEngine(specimen.model)).passed


def test_a_truncated_weight_file_is_refused_at_once(bundle: Path) -> None:
    raw = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BundleError, match="cut off"):
        Bundle.open(bundle)
    TABLE.append(("weight file truncated", float("inf"), "size", float("inf")))


def test_swapped_ids_of_the_tokenizer_are_caught(
    specimens: dict[str, Specimen], bundle: Path
) -> None:
    path = bundle / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]
    path.write_text(json.dumps(document))
    refused(bundle)
    reseal(bundle)
    # In PyTorch: the same text, encoded with the swapped ids, compared token for token.
    golden = Golden.load(bundle / "golden.safetensors").chunked
    swapped = golden.ids.copy()
    swapped[golden.ids == vocabulary["e"]] = vocabulary["o"]
    swapped[golden.ids == vocabulary["o"]] = vocabulary["e"]
    with torch.no_grad():
        logits = specimens["relu"].model(torch.from_numpy(swapped)[None])[0].numpy()
    movement = float(np.abs(logits - golden.logits).max() / np.abs(golden.logits).max())
    receipt = verify(Bundle.open(bundle), check="size")
    judge("tokenizer with two ids swapped", movement, receipt)
    assert [check.name for check in receipt.checks if not check.passed] == ["tokenizer"]


def test_the_golden_file_of_another_bundle_is_caught(
    specimens: dict[str, Specimen], bundle: Path
) -> None:
    shutil.copyfile(specimens["gelu"].bundle / "golden.safetensors", bundle / "golden.safetensors")
    refused(bundle)
    reseal(bundle)
    movement = movement_of(bundle, specimens["relu"].model)
    judge("golden file of another bundle", movement, verify(Bundle.open(bundle), check="size"))


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.long)])
def test_a_clean_bundle_passes_each_time(specimens: dict[str, Specimen], times: int) -> None:
    bundle = Bundle.open(specimens["relu"].bundle)
    assert [verify(bundle).passed for _ in range(times)] == [True] * times


def test_the_gallery_is_large_enough() -> None:
    count = len(WEIGHT_FAULTS) + len(GRAPH_FAULTS) + len(RUNTIME_FAULTS)
    assert count >= 24
