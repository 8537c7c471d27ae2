"""float16 and bfloat16: the content of a bundle, its proof, and the parts kept in float32."""

import copy
import json
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from small_models import TEXT, random_model, small_config, write_checkpoint
from torch_engine import TorchEngine

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import (
    EdgeGPTWarning,
    EngineError,
    InvalidInputError,
    NumericalError,
)
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.half_precision import in_half_precision, matching_layers
from edgegpt.export.range_probe import SAFE, largest_values, too_large
from edgegpt.export.recipes import half_precision as recipe
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.engines.base import EngineInfo
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.generation.prefill import all_logits
from edgegpt.runtime.proof import verify as proof
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.receipt_page import render_html
from edgegpt.runtime.proof.receipt_store import keep, missing_proof
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify, verify_engine

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
    "n_kv_head": 2,
    "tie_embeddings": True,
}
IDS = torch.randint(30, (4, 32), generator=torch.Generator().manual_seed(0))
TEXTS = [(ids[None],) for ids in IDS]


def export(folder: Path, model: GPT, precision: str, text: str | None = None) -> Receipt:
    source = write_checkpoint(folder / "ckpt", model, text)
    return export_bundle(source, folder / "out", precision=precision)


@pytest.fixture(scope="module")
def llama() -> GPT:
    return random_model(small_config(**LLAMA))


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory, llama: GPT) -> Path:
    """A bundle of `llama` that no engine on this machine can run. Read-only."""
    folder = tmp_path_factory.mktemp("bfloat16")
    with pytest.warns(EdgeGPTWarning, match=r"is not proved: onnxruntime runs no bfloat16.*verify"):
        receipt = export(folder, llama, "bfloat16", TEXT)
    assert receipt.outcome == "pending"
    assert not receipt.passed
    return folder / "out"


def cache_types(bundle: Path) -> list[set[str]]:
    return [{p.dtype for p in g.caches()} for g in Bundle.open(bundle).manifest.graphs]


@pytest.fixture(scope="module")
def float16(tmp_path_factory: pytest.TempPathFactory, llama: GPT) -> Path:
    """A bundle of `llama`, and the receipt of its export. Read-only."""
    folder = tmp_path_factory.mktemp("float16")
    assert export(folder, llama, "float16").passed
    return folder / "out"


def test_a_float16_bundle_has_narrow_weights_and_caches_and_float32_logits(float16: Path) -> None:
    manifest = Bundle.open(float16).manifest
    assert (manifest.precision, manifest.kept) == ("float16", [])
    assert {weight.dtype for weight in manifest.weights.values()} == {"F16"}
    assert cache_types(float16) == [{"float16"}] * 3
    assert {graph.outputs[0].dtype for graph in manifest.graphs} == {"float32"}


def logits_of(bundle: Path, **how: object) -> np.ndarray:
    with closing(open_engine(Bundle.open(bundle), EngineOptions("cpu"), **how)) as engine:
        state = engine.new_state(len(IDS), IDS.shape[1])
        return all_logits(state, IDS.numpy())


@pytest.mark.parametrize("lowering", ["ort", "standard", "legacy"])
def test_a_cpu_computes_a_float16_bundle_in_float32(
    float16: Path, llama: GPT, lowering: str
) -> None:
    rounded = copy.deepcopy(llama).half().float()
    with torch.no_grad():
        wanted = rounded(IDS).numpy()
    limit = TOLERANCES["float32"] * np.abs(wanted).max()
    assert np.abs(logits_of(float16, lowering=lowering) - wanted).max() <= limit
    written = logits_of(float16, lowering=lowering, as_written=True)
    assert 10 * limit < np.abs(written - wanted).max() <= TOLERANCES["float16"] / 1e-5 * limit


@pytest.mark.parametrize("sums", [True, False])
def test_a_float16_proof_is_of_the_cpu_and_of_the_graphs_as_they_are_written(
    float16: Path, monkeypatch: pytest.MonkeyPatch, sums: bool
) -> None:
    """They are not replayed as they are written where the CPU would sum in float16."""
    monkeypatch.setattr(proof, "sums_in_float32", lambda: sums)
    receipt = verify(Bundle.open(float16))
    assert receipt.passed
    names = [check.name.removesuffix("prefill") for check in receipt.checks if "pref" in check.name]
    as_written = ["float16 ort ", "float16 standard ", "float16 legacy "]
    assert names == ["", "standard ", "legacy ", *(as_written if sums else [])]
    for check in receipt.checks:
        if check.name.startswith("float16"):
            assert check.tolerance == TOLERANCES["float16"]
            assert check.difference.relative > 10 * TOLERANCES["float32"]
        elif not check.name.startswith("tokenizer"):
            assert check.tolerance == TOLERANCES["half weights"]
            assert check.difference.relative < TOLERANCES["float32"]


@pytest.mark.parametrize("lowering", ["standard", "legacy"])
def test_a_bfloat16_graph_computes_the_model_in_onnx_s_own_evaluator(
    bfloat16: Path, lowering: str
) -> None:
    bundle = Bundle.open(bfloat16)
    assert {weight.dtype for weight in bundle.manifest.weights.values()} == {"BF16"}
    assert cache_types(bfloat16) == [{"bfloat16"}] * 3
    model = onnx.load(bfloat16 / f"decoder.{lowering}.onnx")
    prompt = Golden.load(bfloat16 / "golden.safetensors").chunked
    length = len(prompt.ids)
    cache = {
        port.name: np.zeros((1, 2, length, 16), dtype=ml_dtypes.bfloat16)
        for port in bundle.manifest.graphs[0].caches()
    }
    where = {"past_len": np.array([0]), "logit_positions": np.arange(length)[None]}
    feeds = {"ids": prompt.ids[None], **where, **cache}
    (logits,) = ReferenceEvaluator(model).run(["logits"], feeds)
    assert logits.dtype == np.float32
    error = np.abs(logits[0] - prompt.logits).max() / np.abs(prompt.logits).max()
    assert 1e-3 < error <= TOLERANCES["bfloat16"]


def test_pytorch_in_bfloat16_passes_the_proof(bfloat16: Path, llama: GPT) -> None:
    engine = TorchEngine(in_half_precision(llama, "bfloat16"))
    assert verify_engine(Bundle.open(bfloat16), engine).passed


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, LLAMA], ids=["char", "llama"])
def test_pytorch_is_within_half_of_the_tolerance(precision: str, changes: dict) -> None:
    model = random_model(small_config(**changes))
    with torch.no_grad():
        wanted, found = model(IDS), in_half_precision(model, precision)(IDS)
    assert found.dtype == torch.float32
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert 1e-4 < error < TOLERANCES[precision] / 2


def test_a_pending_bundle_is_told_from_a_passed_and_from_a_failed_one(
    bfloat16: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert json.loads((bfloat16 / "receipt.json").read_text())["outcome"] == "pending"
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(bfloat16), "--report", str(tmp_path / "r.html")])
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "PENDING" in output
    assert "not run: onnxruntime runs no bfloat16 on a CPU" in output
    assert "FAIL" not in output
    assert ">PENDING<" in (tmp_path / "r.html").read_text()
    with pytest.raises(SystemExit):
        main(["inspect", str(bfloat16)])
    assert "PENDING" in capsys.readouterr().out
    with pytest.raises(EngineError, match="runs no bfloat16 on a CPU"):
        edgegpt.load(bfloat16)


def test_a_pending_bundle_is_unproved_until_a_device_has_verified_it(bfloat16: Path) -> None:
    bundle = Bundle.open(bfloat16)
    device = EngineInfo("onnxruntime", "9.99", "cuda", 1)
    receipt = verify(bundle)
    graph = receipt.graph
    assert "not verified on onnxruntime 9.99 on cuda yet" in str(
        missing_proof(bundle, graph, device)
    )
    run = {"engine": "onnxruntime", "engine_version": "9.99", "device": "cuda", "pending": None}
    keep(replace(receipt, **run))
    assert missing_proof(bundle, graph, device) is None


def test_a_wrong_tokenizer_fails_even_where_nothing_can_run(bfloat16: Path) -> None:
    receipt = verify(Bundle.open(bfloat16))
    broken = replace(receipt, checks=[replace(receipt.checks[0], passed=False)])
    assert broken.outcome == "failed"
    assert ">FAIL<" in render_html(broken, "a model")


def test_a_cache_of_two_bytes_takes_half_the_memory(bfloat16: Path, llama: GPT) -> None:
    config = llama.config
    numbers = 2 * config.n_layer * config.n_kv_head * config.block_size * config.head_dim
    assert memory_needed(Bundle.open(bfloat16)).cache == 2 * numbers


def test_on_a_cpu_a_float16_bundle_takes_the_memory_of_float32(
    float16: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(float16)
    written, wide = memory_needed(bundle), memory_needed(bundle, backend="cpu")
    assert (wide.weights, wide.cache) == (2 * written.weights, 2 * written.cache)
    with edgegpt.load(float16) as model:
        state = model.engine.new_state(1, model.context)
        assert sum(cache.nbytes for cache in state.caches) == wide.cache
    with pytest.raises(SystemExit):
        main(["inspect", str(float16)])
    assert f"{wide.total / 1e6:.1f} MB on a CPU, in float32" in " ".join(
        capsys.readouterr().out.split()
    )


def scaled(model: GPT, factor: float, larger: list[str], smaller: list[str]) -> GPT:
    """Multiply the parameters `larger` and divide `smaller`, so that values between them grow."""
    with torch.no_grad():
        for name, by in [*((n, factor) for n in larger), *((n, 1 / factor) for n in smaller)]:
            model.get_parameter(name).mul_(by)
    return model


def test_a_layer_that_would_overflow_is_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ReLU(a x) / a = ReLU(x): the model's results stay the same, with values near 1e6 inside."""
    up, down = "blocks.1.feed_forward.up", "blocks.1.feed_forward.down"
    model = scaled(
        random_model(small_config()), 1e6, [f"{up}.weight", f"{up}.bias"], [f"{down}.weight"]
    )
    assert list(too_large(model, TEXTS)) == ["blocks.1.feed_forward"]
    export(tmp_path, model, "float16")
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.kept == ["blocks.1.feed_forward"]
    kept = {name for name, weight in manifest.weights.items() if weight.dtype == "F32"}
    bias = {f"{up}.bias", f"{down}.bias", "blocks.1.norm_2.bias"}
    assert kept == bias | {f"{up}.weight", f"{down}.weight", "blocks.1.norm_2.weight"}
    monkeypatch.setattr(recipe, "too_large", lambda *_: {})
    with pytest.raises(NumericalError, match=f"{up}.weight has values that float16 cannot hold"):
        export_bundle(tmp_path / "ckpt", tmp_path / "b", precision="float16")
    assert not (tmp_path / "b").exists()


def test_a_residual_stream_that_would_overflow_is_kept(tmp_path: Path) -> None:
    """All terms of the residual stream grow by one factor, which the norms take out again."""
    model = random_model(small_config(**(LLAMA | {"tie_embeddings": False})))
    writers = ["token_embedding.weight"]
    for index in range(2):
        block = f"blocks.{index}"
        writers += [f"{block}.attention.proj.weight", f"{block}.feed_forward.down.weight"]
    scaled(model, 1e6, writers, [])
    export(tmp_path, model, "float16")
    kept = Bundle.open(tmp_path / "out").manifest.kept
    assert set(kept) >= {"residual", "blocks.0.attention", "blocks.1.feed_forward"}
    assert "head" not in kept


def test_the_probe_sees_each_part_and_leaves_no_hook(small_model: GPT) -> None:
    largest = largest_values(small_model, TEXTS)
    assert list(largest) == [
        "blocks.0.attention",
        "blocks.0.feed_forward",
        "blocks.1.attention",
        "blocks.1.feed_forward",
        "head",
        "residual",
    ]
    assert all(0.1 < value < SAFE for value in largest.values())
    with torch.no_grad():
        assert largest["head"] >= float(small_model(IDS).abs().max())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small_model.modules())


def test_large_scores_are_seen_though_no_value_is_large() -> None:
    model = random_model(small_config(n_layer=1, qkv_bias=True))
    with torch.no_grad():
        model.blocks[0].attention.qkv.bias[:64] = 500.0  # of queries and keys
    assert list(too_large(model, TEXTS)) == ["blocks.0.attention"]


def test_a_value_that_is_no_number_is_too_large() -> None:
    model = random_model(small_config())
    with torch.no_grad():
        model.blocks[0].feed_forward.down.bias[0] = torch.nan
    assert {"residual", "head", "blocks.0.feed_forward"} <= too_large(model, TEXTS).keys()


def test_what_is_kept_is_not_rounded_on_the_way(llama: GPT) -> None:
    """The head of this model is tied, so the embedding stays in float32, too."""
    narrow = in_half_precision(llama, "bfloat16", ["head", "blocks.0.attention"])
    assert narrow.head.weight is narrow.token_embedding.weight
    for name, parameter in narrow.named_parameters():
        kept = name.startswith(("token_embedding", "norm_final", "blocks.0.attention"))
        kept |= name == "blocks.0.norm_1.weight"
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert not kept or torch.equal(parameter, llama.get_parameter(name))
    with torch.no_grad():
        narrow(IDS)


def test_layers_are_kept_by_the_beginning_of_their_names(llama: GPT) -> None:
    assert matching_layers(llama, ["blocks.1", "head"]) == {
        "blocks.1.attention",
        "blocks.1.feed_forward",
        "head",
    }
    with pytest.raises(InvalidInputError, match=r"no layer 'blocks\.7' to keep in float32"):
        matching_layers(llama, ["blocks.7"])


def test_settings_that_make_no_sense_are_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no precision 'float8'"):
        export_bundle(small_checkpoint, tmp_path / "b", precision="float8")
    settings = ExportSettings(method="gptq")  # only for quantised bundles
    with pytest.raises(InvalidInputError, match="float16 has no use for method"):
        export_bundle(small_checkpoint, tmp_path / "b", precision="float16", settings=settings)


def test_the_command_keeps_layers_and_says_which(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    arguments = ["--precision", "float16", "--keep-fp32", "head, blocks.1", "--json"]
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        main(["export", str(small_checkpoint), "--out", str(out), *arguments])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "passed"
    kept = ["blocks.1.attention", "blocks.1.feed_forward", "head"]
    manifest = Bundle.open(out).manifest
    assert manifest.kept == kept
    for graph in manifest.graphs:
        types = [port.dtype for port in graph.caches()]
        assert types == ["float16", "float16", "float32", "float32"]
    with pytest.raises(SystemExit):
        main(["inspect", str(out)])
    assert "float16, blocks.1.attention, blocks.1.feed_forward, head kept in float32" in " ".join(
        capsys.readouterr().out.split()
    )
