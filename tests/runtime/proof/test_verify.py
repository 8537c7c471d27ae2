"""Verify: a clean bundle passes; damaged weights, graphs and engines do not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from reseal import reseal
from safetensors.numpy import load_file

from edgegpt.cli import main
from edgegpt.errors import BundleError, InvalidInputError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cpu import OrtState
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify
from edgegpt.runtime.text.tokenizer import Tokenizer

TOLERANCE = TOLERANCES["float32"]
GRAPH = "decoder.standard.onnx"


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def run(*arguments: object) -> int:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    code = stop.value.code
    assert isinstance(code, int)
    return code


def change_weight(bundle: Path, name: str, change: Callable[[NDArray[np.float32]], None]) -> None:
    """Edit one weight in the weight file, in place."""
    entry = Bundle.open(bundle).manifest.weights[name]
    raw = bytearray((bundle / "weights.safetensors").read_bytes())
    array = np.frombuffer(raw, np.float32, entry.size // 4, entry.offset).reshape(entry.shape)
    change(array)
    (bundle / "weights.safetensors").write_bytes(raw)


def movement(bundle: Path, model: GPT, name: str, weight: NDArray[np.float32]) -> float:
    """Return how far PyTorch's golden logits move, relative to the largest, with `weight`."""
    damaged = GPT(model.config).eval()
    damaged.load_state_dict(model.state_dict())
    is_linear = weight.ndim == 2 and "embedding" not in name
    with torch.no_grad():
        damaged.get_parameter(name).copy_(torch.from_numpy(weight.T if is_linear else weight))
    moved = 0.0
    for prompt in Golden.load(bundle / "golden.safetensors").prefill:
        with torch.no_grad():
            logits = damaged(torch.from_numpy(prompt.ids)[None])[0].numpy()
        moved = max(moved, np.abs(logits - prompt.logits).max() / np.abs(prompt.logits).max())
    return moved


def test_a_clean_bundle_passes_every_check(small_bundle: Path) -> None:
    receipt = verify(Bundle.open(small_bundle), EngineOptions("cpu"))
    assert receipt.passed
    checks = ["prefill", "chunked", "ragged", "far positions", "decode", "continuation"]
    others = [f"{lowering} {name}" for lowering in ("standard", "legacy") for name in checks]
    names = ["tokenizer", *checks, *others]
    assert [check.name for check in receipt.checks] == names
    assert all(check.first_difference is None for check in receipt.checks)
    assert receipt.engine == "onnxruntime"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_matter(small_bundle: Path, threads: int) -> None:
    assert verify(Bundle.open(small_bundle), EngineOptions("cpu", threads)).passed


WEIGHTS = [
    "token_embedding.weight",
    "position_embedding.weight",
    "blocks.0.norm_1.weight",
    "blocks.0.attention.qkv.weight",
    "blocks.0.attention.proj.bias",
    "blocks.1.feed_forward.up.weight",
    "blocks.1.feed_forward.down.weight",
    "norm_final.bias",
    "head.weight",
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_matters_is_caught_by_the_computation(
    bundle: Path, small_model: GPT, name: str
) -> None:
    """Flip the sign of one number of which PyTorch says that it moves the golden logits."""
    rng = np.random.default_rng(len(name))
    for _ in range(20):
        place = rng.integers(0, small_model.get_parameter(name).numel())

        def flip(array: NDArray[np.float32], place: int = int(place)) -> None:
            array.reshape(-1)[place] *= -1

        change_weight(bundle, name, flip)
        moved = movement(bundle, small_model, name, load_file(bundle / "weights.safetensors")[name])
        if moved > 10 * TOLERANCE:
            break
        change_weight(bundle, name, flip)
    assert moved > 10 * TOLERANCE
    receipt = verify(Bundle.open(bundle), check="size")
    assert not receipt.passed
    assert max(check.difference.relative for check in receipt.checks) > TOLERANCE


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("name", WEIGHTS[::3])
def test_any_flipped_bit_is_caught_by_the_hashes_which_name_the_tensor(
    bundle: Path, name: str, bit: int
) -> None:
    def flip(array: NDArray[np.float32]) -> None:
        array.view(np.uint8).reshape(-1)[bit * 5] ^= 1 << bit

    change_weight(bundle, name, flip)
    with pytest.raises(BundleError, match=rf"changed tensors: {name}$"):
        verify(Bundle.open(bundle), check="hash")


@pytest.mark.parametrize("file", [GRAPH, "golden.safetensors", "tokenizer.json"])
def test_a_flipped_byte_in_any_file_is_caught_by_the_hashes(bundle: Path, file: str) -> None:
    raw = bytearray((bundle / file).read_bytes())
    raw[len(raw) // 2] ^= 1
    (bundle / file).write_bytes(raw)
    with pytest.raises(BundleError, match=f"{file}.*is damaged"):
        verify(Bundle.open(bundle))


def attention_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Attention"]


def wrong_scale(model: onnx.ModelProto) -> None:
    for attribute in attention_nodes(model)[1].attribute:
        if attribute.name == "scale":
            attribute.f *= 1.01


def mask_off_by_one(model: onnx.ModelProto) -> None:
    (compare,) = [node for node in model.graph.node if node.op_type == "LessOrEqual"]
    compare.op_type = "Less"


def keys_and_values_swapped(model: onnx.ModelProto) -> None:
    scatters = [node for node in model.graph.node if node.op_type == "TensorScatter"]
    scatters[0].input[1], scatters[1].input[1] = scatters[1].input[1], scatters[0].input[1]


def wrong_epsilon(model: onnx.ModelProto) -> None:
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(a for a in norm.attribute if a.name == "epsilon").f = 1e-3


@pytest.mark.parametrize(
    "damage", [wrong_scale, mask_off_by_one, keys_and_values_swapped, wrong_epsilon]
)
def test_a_wrong_graph_fails(bundle: Path, damage: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(bundle / GRAPH, load_external_data=False)
    damage(model)
    onnx.save(model, bundle / GRAPH)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle))
    assert not receipt.passed


def with_every_lowering(*checks: str) -> set[str]:
    return {f"{label}{check}" for label in ("", "standard ", "legacy ") for check in checks}


def test_positions_that_do_not_advance_fail_the_decoding_checks(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is in `decode`, which writes texts; `step` is right."""
    honest = OrtState._decode

    def stuck(self: OrtState, *rest: int) -> None:
        self.past_len -= self.past_len > 1
        honest(self, *rest)

    monkeypatch.setattr(OrtState, "_decode", stuck)
    failed = {check.name for check in verify(Bundle.open(small_bundle)).checks if not check.passed}
    assert failed == with_every_lowering("far positions", "decode", "continuation")


def test_positions_that_do_not_advance_fail_a_prompt_in_pieces(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is in `step`, where one of the pieces is a single token; `decode` is right."""
    honest = OrtState._run

    def stuck(self: OrtState, ids, past_len, *rest) -> None:
        late = past_len - (past_len > 1) if ids.shape[1] == 1 else past_len
        honest(self, ids, late, *rest)

    monkeypatch.setattr(OrtState, "_run", stuck)
    failed = {check.name for check in verify(Bundle.open(small_bundle)).checks if not check.passed}
    assert failed == with_every_lowering("chunked")


def test_nan_from_the_engine_fails(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = OrtState.logits

    def broken(self: OrtState) -> NDArray[np.float32]:
        logits = honest(self).copy()
        logits[..., 0] = np.nan
        return logits

    monkeypatch.setattr(OrtState, "logits", broken)
    receipt = verify(Bundle.open(small_bundle))
    assert [check.name for check in receipt.checks if check.passed] == ["tokenizer"]


def unreadable(ids: list[int]) -> list[int]:
    raise InvalidInputError("no such character")


@pytest.mark.parametrize(
    ("method", "change", "wrong"),
    [
        ("decode", lambda text: text[:4] + "\0" + text[5:], 1),
        ("decode", lambda text: text[:-2], 2),
        ("encode", lambda ids: ids[:-3], 3),
        ("encode", lambda ids: [1 - ids[0], *ids[1:]], 1),
        ("encode", unreadable, None),
    ],
)
def test_a_tokenizer_that_reads_or_writes_otherwise_fails_and_the_differences_are_counted(
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    change: Callable[[Any], Any],
    wrong: int | None,
) -> None:
    honest = getattr(Tokenizer, method)
    monkeypatch.setattr(Tokenizer, method, lambda *arguments: change(honest(*arguments)))
    (check,) = (one for one in verify(Bundle.open(small_bundle)).checks if not one.passed)
    golden = Golden.load(small_bundle / "golden.safetensors")
    assert golden.tokenizer is not None
    assert check.name == "tokenizer"
    assert check.difference.max_abs == (len(golden.tokenizer.ids) if wrong is None else wrong)


def test_a_tokenizer_that_is_missing_fails(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    files = {name: entry for name, entry in manifest.files.items() if name != "tokenizer.json"}
    (bundle / "edgegpt.json").write_text(replace(manifest, files=files).to_json())
    failed = [check.name for check in verify(Bundle.open(bundle)).checks if not check.passed]
    assert failed == ["tokenizer"]


def near_tie_bundle(bundle: Path, lead: float) -> None:
    """Make the runner-up the choice of the golden file's first step, with a lead of `lead`."""
    path = bundle / "golden.safetensors"
    golden = Golden.load(path)
    first = golden.continuations[0]
    ids, logits, margins = first.ids.copy(), first.logits.copy(), first.margins.copy()
    order = np.argsort(-logits[0])
    ids[0] = order[1]
    logits[0, order[1]] = logits[0, order[0]] + lead
    margins[0] = lead
    changed = replace(first, ids=ids[:1], logits=logits[:1], margins=margins[:1])
    rest = [
        replace(row, ids=row.ids[:1], logits=row.logits[:1], margins=row.margins[:1])
        for row in golden.continuations[1:]
    ]
    replace(golden, continuations=[changed, *rest]).save(path)
    reseal(bundle)


def test_another_token_where_the_lead_was_clear_fails_and_is_named(bundle: Path) -> None:
    near_tie_bundle(bundle, lead=1.0)
    checks = {check.name: check for check in verify(Bundle.open(bundle)).checks}
    assert not checks["decode"].passed
    assert checks["decode"].first_difference == 0
    assert checks["continuation"].first_difference == 0
    assert checks["continuation"].margin == pytest.approx(1.0)


def test_another_token_fails_though_all_logits_are_right(bundle: Path) -> None:
    """The last token of a row is never fed, so no logits depend on it."""
    golden = Golden.load(bundle / "golden.safetensors")
    first, *rest = golden.continuations
    ids = first.ids.copy()
    ids[-1] = (ids[-1] + 1) % 2
    assert first.margins[-1] > 1e-3
    replace(golden, continuations=[replace(first, ids=ids), *rest]).save(
        bundle / "golden.safetensors"
    )
    reseal(bundle)
    failed = [check for check in verify(Bundle.open(bundle)).checks if not check.passed]
    assert {check.name for check in failed} == with_every_lowering("decode", "continuation")
    assert max(check.difference.relative for check in failed) <= TOLERANCE


def test_the_command_prints_pass_and_exits_with_0(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", small_bundle) == 0
    output = capsys.readouterr().out
    assert "PASS" in output
    assert "FAIL" not in output


def test_the_command_exits_with_1_when_a_check_fails(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weight(bundle, "head.weight", lambda array: array.fill(1.0))
    assert run("verify", bundle, "--check", "size") == 1
    assert "FAIL" in capsys.readouterr().out


def test_the_json_is_a_receipt(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", small_bundle, "--json") == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["receipt_version"] == 5
    assert receipt["outcome"] == "passed"
    assert receipt["passed"] is True
    assert receipt["checks"][0]["difference"]["relative"] < 1e-5


def test_damaged_bytes_exit_with_1_and_one_sentence(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weight(bundle, "norm_final.bias", lambda array: array.fill(3.0))
    assert run("verify", bundle, "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"] is False
    assert "norm_final.bias" in captured.err
    assert captured.err.count("\n") == 1


def test_an_unknown_way_to_check_is_refused(small_bundle: Path) -> None:
    with pytest.raises(InvalidInputError, match="check is 'none'"):
        verify(Bundle.open(small_bundle), check="none")
