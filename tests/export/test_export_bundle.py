"""Exporting: what a bundle contains, that the proof guards it, and that failures leave nothing."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edgegpt
from edgegpt.checkpoint import save_config, save_weights
from edgegpt.errors import CheckpointError, ExportError, InvalidInputError, VerificationError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.lowerings import LOWERINGS, STANDARD
from edgegpt.export.recipes import parts
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.pack import pack, unpack
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Defaults, Usage

SIZES = {"vocab_size": 40, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}
FAMILIES = {
    "gpt2": {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True},
    "llama": {
        "n_kv_head": 2,
        "norm": "rmsnorm",
        "position": "rope",
        "activation": "silu",
        "gated": True,
        "proj_bias": False,
        "ff_bias": False,
        "norm_bias": False,
        "n_ff": 48,
        "tie_embeddings": True,
    },
    "multi-query": {"n_kv_head": 1, "activation": "gelu", "head_bias": True},
    "scaled by n_embd": {"attention_scale": 32**-0.5},
    "sines, norms of the sum": {
        "position": "sinusoidal",
        "norm_placement": "post",
        "final_norm": False,
        "embedding_norm": True,
    },
    "distances": {"position": "relative", "relative_buckets": 8, "relative_distance": 12},
    "one layer, block of 2": {"n_layer": 1, "block_size": 2},
}


def checkpoint(folder: Path, **changes: object) -> Path:
    """Write an untrained checkpoint without a tokenizer, its weights spread out."""
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_dict(SIZES | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir()
    save_config(folder, model.config)
    save_weights(folder, model, torch.float32)
    return folder


def test_the_bundle_has_what_the_design_names(small_bundle: Path) -> None:
    assert {file.name for file in small_bundle.iterdir()} == {
        "edgegpt.json",
        "decoder.legacy.onnx",
        "decoder.ort.onnx",
        "decoder.standard.onnx",
        "weights.safetensors",
        "golden.safetensors",
        "tokenizer.json",
        "receipt.json",
    }
    manifest = Bundle.open(small_bundle).manifest
    assert set(manifest.files) == {
        "decoder.legacy.onnx",
        "decoder.ort.onnx",
        "decoder.standard.onnx",
        "weights.safetensors",
        "golden.safetensors",
        "tokenizer.json",
    }
    assert manifest.precision == "float32"
    assert (manifest.usage, manifest.source) == (None, None)
    assert manifest.versions["torch"] == torch.__version__


def test_what_the_source_says_travels_in_the_bundle(
    small_checkpoint: Path, small_model: GPT, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_checkpoint, tmp_path / "ckpt"))
    usage = Usage((1,), (2, 3), None, Defaults(temperature=0.5), {"bos_token": "h"})
    source = Source("llama", "someone/model", "mit")
    save_config(folder, small_model.config, usage, source)
    texts = {"chat_template.jinja": "{{ x }}\r\n", "LICENSE": "Do.\n", "MODEL_CARD.md": "# größer"}
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    export_bundle(folder, tmp_path / "bundle")
    pack(Bundle.open(tmp_path / "bundle"), tmp_path / "bundle.tar")
    bundle = unpack(tmp_path / "bundle.tar", tmp_path / "unpacked")
    assert (bundle.manifest.usage, bundle.manifest.source) == (usage, source)
    assert {name: bundle.file(name).read_bytes().decode() for name in texts} == texts


def test_the_receipt_in_the_bundle_is_of_this_bundle_and_passed(small_bundle: Path) -> None:
    receipt = json.loads((small_bundle / "receipt.json").read_text())
    assert receipt["passed"] is True
    assert receipt["bundle_id"] == Bundle.open(small_bundle).manifest.id
    names = [check["name"] for check in receipt["checks"]]
    checks = ["prefill", "chunked", "ragged", "far positions", "decode", "continuation"]
    others = [f"{lowering} {name}" for lowering in ("standard", "legacy") for name in checks]
    assert names == ["tokenizer", *checks, *others]


def test_the_same_checkpoint_gives_the_same_bundle(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path
) -> None:
    export_bundle(small_checkpoint, tmp_path / "again")
    assert Bundle.open(tmp_path / "again").manifest.id == Bundle.open(small_bundle).manifest.id


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_models_passes_its_proof(tmp_path: Path, family: str) -> None:
    source = checkpoint(tmp_path / "ckpt", **FAMILIES[family])
    receipt = export_bundle(source, tmp_path / "bundle")
    assert receipt.passed
    assert max(check.difference.relative for check in receipt.checks) < 1e-5
    assert not (tmp_path / "bundle" / "tokenizer.json").exists()


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "ckpt", tie_embeddings=True)
    export_bundle(source, tmp_path / "bundle")
    weights = Bundle.open(tmp_path / "bundle").manifest.weights
    assert [name for name, entry in weights.items() if entry.shape == [40, 32]] == [
        "token_embedding.weight"
    ]


def test_forward_of_the_bundle_is_pytorch_s(small_bundle: Path, small_model: GPT) -> None:
    ids = torch.randint(0, small_model.config.vocab_size, (3, 32))
    with torch.no_grad():
        wanted = small_model(ids).numpy()
    with edgegpt.load(small_bundle) as model:
        found = model.forward(ids.numpy())
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def one_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put one mistake into the standard lowering."""
    operator = torch.ops.edgegpt.cached_attention.default
    right = STANDARD.translations[operator]

    def scaled_wrongly(*tensors: object, scale: float, **sizes: int) -> object:
        return right(*tensors, scale=scale * 1.001, **sizes)

    wrong = replace(STANDARD, translations={operator: scaled_wrongly})
    lowerings = [wrong if lowering is STANDARD else lowering for lowering in LOWERINGS]
    monkeypatch.setattr(parts, "LOWERINGS", lowerings)


def test_a_graph_that_computes_something_else_is_not_shipped(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_wrong(monkeypatch)
    with pytest.raises(
        VerificationError, match="PyTorch computes: standard prefill is off by"
    ) as e:
        export_bundle(small_checkpoint, tmp_path / "bundle")
    assert str(e.value).count("is off by") == 3
    assert re.search(r"; so are \d+ more of \d+ checks. Nothing was written.$", str(e.value))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_bundle_that_was_there(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_bundle, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "edgegpt.json").read_bytes()
    one_wrong(monkeypatch)
    with pytest.raises(VerificationError):
        export_bundle(small_checkpoint, tmp_path / "bundle", force=True)
    assert (tmp_path / "bundle" / "edgegpt.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_existing_bundle_is_replaced_only_by_force(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "bundle", ExportSettings(lowerings=("ort",))
    out.mkdir()  # an empty folder may be replaced
    export_bundle(small_checkpoint, out, settings=settings)
    with pytest.raises(ExportError, match="--force"):
        export_bundle(small_checkpoint, out)
    export_bundle(small_checkpoint, out, force=True, settings=settings)
    assert Bundle.open(out)


def test_a_bundle_that_another_export_wrote_meanwhile_stays(
    small_bundle: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    def meanwhile(what: str, done: int, total: int) -> None:
        if what.startswith("proving"):
            shutil.copytree(small_bundle, tmp_path / "bundle")
            (tmp_path / "bundle" / "mark").touch()

    with pytest.raises(ExportError, match="holds a bundle already"):
        export_bundle(small_checkpoint, tmp_path / "bundle", progress=meanwhile)
    assert (tmp_path / "bundle" / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ExportError, match="not a bundle"):
        export_bundle(small_checkpoint, tmp_path, force=True)
    assert (tmp_path / "letters.txt").read_text() == "dear"


@pytest.mark.parametrize("max_kl", [-0.1, math.nan, math.inf])
def test_a_budget_that_is_no_number_of_0_or_more_is_refused(max_kl: float) -> None:
    with pytest.raises(InvalidInputError, match=f"max_kl is {max_kl}; it must be a number of 0"):
        ExportSettings(max_kl=max_kl)


@pytest.mark.parametrize(
    ("precision", "choice", "reason"),
    [
        ("float8", {}, "no precision 'float8'; there are: float32, float16, bfloat16, int8, int4"),
        ("float32", {"calibration": "text"}, "float32 has no use for calibration; .*: lowerings"),
        ("float32", {"fast_prefill": False}, "float32 has no use for fast_prefill"),
        ("float32", {"keep_fp32": ("head",)}, "float32 has no use for keep_fp32"),
        (
            "bfloat16",
            {"method": "gptq", "max_kl": 0.0, "keep_fp32": ("head",)},
            "bfloat16 has no use for method, max_kl; .*: keep_fp32",
        ),
        ("float16", {"keep_fp32": "auto"}, "keep_fp32 cannot be 'auto' in float16"),
        ("int8", {"calibration": "The wind"}, "8 tokens has no window of 32"),
        ("int4", {"calibration": "The wind"}, "8 tokens has no window of 32"),
    ],
)
def test_a_choice_that_a_precision_has_no_use_for_is_refused_by_name(
    small_checkpoint: Path, tmp_path: Path, precision: str, choice: dict, reason: str
) -> None:
    settings = ExportSettings(**choice)
    with pytest.raises(InvalidInputError, match=reason):
        export_bundle(small_checkpoint, tmp_path / "b", precision=precision, settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        export_bundle(tmp_path / "nowhere", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_held_out_text_that_the_tokenizer_does_not_know_is_refused(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "ckpt"
    copy.mkdir()
    for file in small_checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "held_out.txt").write_text("naïve " * 20)
    with pytest.raises(CheckpointError, match=r"held_out\.txt.*'ï'"):
        export_bundle(copy, tmp_path / "bundle")


def test_where_no_bundle_can_be_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out, told in [
        (".", "is the folder you are in, or around it"),
        ("..", "is the folder you are in, or around it"),
        (tmp_path, "is the folder you are in, or around it"),
        ("b\udcff", "is not UTF-8"),
    ]:
        with pytest.raises((ExportError, InvalidInputError), match=told):
            export_bundle(tmp_path / "no checkpoint", out)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_utf_8_name_works_in_the_locale_c(small_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bü")
    code = f"import edgegpt, os; edgegpt.load(os.fsdecode({os.fsencode(bundle)!r})).generate('The')"
    verify = ["-m", "edgegpt", "verify", bundle, "--report", tmp_path / "bü.html"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (["-c", code], verify):
        command = [sys.executable, "-W", "ignore", *arguments]
        subprocess.run(command, env=os.environ | plain, check=True, capture_output=True)
    assert "bü" in (tmp_path / "bü.html").read_text(encoding="utf-8")
