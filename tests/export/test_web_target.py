"""`edgegpt export --target web`: one graph that is fast in a browser, one set of weights."""

from pathlib import Path

import pytest
from pair_checkpoints import write_pair_checkpoint
from seq2seq_models import VARIANTS, seq2seq
from small_models import random_model, small_config, write_checkpoint
from uneven_shapes import UNEVEN

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import ExportError, InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.sizes import shares
from edgegpt.runtime.proof.verify import verify

ANY_LOSS = 1e9  # untrained models lose more than the default budget allows
MODELS = {
    "char": {},
    "tied": {"tie_embeddings": True, "head_bias": False, "activation": "gelu_tanh"},
    **UNEVEN,
}


def exported(folder: Path, name: str = "char", precision: str = "int8", **settings: object) -> Path:
    write_checkpoint(folder / "ckpt", random_model(small_config(**MODELS[name])))
    if precision == "int8":
        settings = {"max_kl": ANY_LOSS} | settings
    wanted = ExportSettings(target="web", **settings)
    export_bundle(folder / "ckpt", folder / "bundle", precision=precision, settings=wanted)
    return folder / "bundle"


@pytest.mark.parametrize("name", MODELS)
def test_int8_has_one_set_of_weights_and_passes_its_proof(tmp_path: Path, name: str) -> None:
    bundle = Bundle.open(exported(tmp_path, name))
    manifest, receipt = bundle.manifest, verify(bundle)
    assert receipt.passed
    exact = [check for check in receipt.checks if check.name.startswith("exact ")]
    assert len(exact) == 6
    assert max(check.difference.relative for check in exact) < 1e-5
    rounded = [check for check in receipt.checks if check.name == "prefill"]
    assert rounded[0].difference.relative > 1e-4  # its activations are rounded
    lowering = "standard" if name == "heads of 12" else "ort"
    assert [graph.name for graph in manifest.graphs] == [f"decoder.{lowering}", f"exact.{lowering}"]
    tables = {name for name in manifest.weights if "embedding" in name}
    linear = {n for n, entry in manifest.weights.items() if entry.dtype == "I8"}
    assert len(linear) == 2 * (5 if MODELS[name].get("gated") else 4) + 1
    assert all(len(manifest.weights[f"{n}.scales"].shape) == 1 for n in linear)
    if MODELS[name].get("tie_embeddings"):
        assert "token_embedding.weight" in linear & tables
        assert "head.weight" not in manifest.weights
    floats = sum(e.size for n, e in manifest.weights.items() if n not in linear)
    model = random_model(small_config(**MODELS[name]))
    parameters = sum(p.numel() for n, p in model.named_parameters() if n in linear)
    assert sum(manifest.weights[n].size for n in linear) == parameters  # one byte each, once
    assert floats < 3 * parameters


def test_it_is_a_bundle_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported(tmp_path)
    with edgegpt.load(folder) as model:
        one = model.generate("The wind", max_new_tokens=20)
        batch = model.generate(["The wind", "No answer"], max_new_tokens=20)
    assert batch[0].token_ids[: one.first_near_tie] == one.token_ids[: one.first_near_tie]
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(folder)])
    assert not stop.value.code
    told = " ".join(capsys.readouterr().out.split())
    model_ = random_model(small_config())
    assert f"parameters {model_.parameter_count():,}" in told
    assert "rtn, blocks of 128," in told  # the widest row
    found = {share.what: share.saved_by for share in shares(Bundle.open(folder))}
    assert list(found) == [
        "weights",
        "graphs of ort",
        "golden vectors and receipt",
        "tokenizer, settings, papers",
    ]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_without_integers_there_is_the_one_graph(tmp_path: Path, precision: str) -> None:
    bundle = Bundle.open(exported(tmp_path, precision=precision))
    assert [graph.name for graph in bundle.manifest.graphs] == ["decoder.ort"]
    assert verify(bundle).passed


def test_gptq_rounds_whole_rows_too(tmp_path: Path) -> None:
    bundle = Bundle.open(exported(tmp_path, "llama, tied", method="gptq"))
    assert verify(bundle).passed
    assert bundle.manifest.quantization.method == "gptq"


def test_past_the_budget_layers_stay_float32_or_the_worst_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"int8 moves the model too far.*weight \(.*--keep-fp32"):
        exported(tmp_path / "a", max_kl=1e-9)
    bundle = Bundle.open(exported(tmp_path / "b", max_kl=1e-5, keep_fp32="auto"))
    quantization = bundle.manifest.quantization
    assert quantization.quality.kl <= 1e-5
    assert 0 < len(quantization.kept) < 9
    assert quantization.finer == []
    assert verify(bundle).passed


@pytest.mark.parametrize("precision", ["int4", "bfloat16"])
def test_a_precision_that_is_slow_there_is_refused(
    small_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"nothing is fast in {precision} on the target"):
        export_bundle(
            small_checkpoint,
            tmp_path / "out",
            precision=precision,
            settings=ExportSettings(target="web"),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_encoder_decoder_is_refused(tmp_path: Path, precision: str) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS["t5"]))
    settings = ExportSettings(target="web")
    with pytest.raises(InvalidInputError, match="the target web is for models without an encoder"):
        export_bundle(checkpoint, tmp_path / "out", precision=precision, settings=settings)


@pytest.mark.parametrize("other", [["--lowering", "ort"], ["--no-fast-prefill"]])
def test_the_target_goes_with_no_other_choice_of_graphs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: list[str]
) -> None:
    arguments = ["export", "nowhere", "--out", str(tmp_path / "b"), "--target", "web"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--precision", "int8", *other])
    assert stop.value.code == 2
    assert "--target chooses the graphs" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InvalidInputError, match="the target web chooses the graphs itself"):
        ExportSettings(target="web", fast_prefill=False)
