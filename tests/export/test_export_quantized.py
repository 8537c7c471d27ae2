"""int8 and int4 bundles: proved twice, and refused if the loss is over the budget."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reseal import reseal
from small_models import TEXT, random_model, small_config, write_checkpoint
from uneven_shapes import UNEVEN

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import BundleError, EdgeGPTWarning, ExportError, InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.golden_fit import golden_of
from edgegpt.runtime.engines.base import MANY_ROWS
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.binding import SHORT_STEP
from edgegpt.runtime.engines.ort.cpu import OrtState
from edgegpt.runtime.proof.replay import Replay
from edgegpt.runtime.proof.verify import verify

ANY_LOSS = 1e9  # untrained models lose more than the default budgets allow
MODELS = {
    "char": {},
    "gelu, tied": {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True}
    | {"head_bias": False},
    **UNEVEN,
}

ONE_GRAPH = {"lowerings": ("ort",), "fast_prefill": False}  # where only the weights matter


def exported(folder: Path, precision: str, name: str = "char", **settings: object) -> Path:
    model = random_model(small_config(**MODELS[name]))
    write_checkpoint(folder / "ckpt", model)
    wanted = ExportSettings(**{"method": "rtn", "max_kl": ANY_LOSS} | settings)
    export_bundle(folder / "ckpt", folder / "bundle", precision=precision, settings=wanted)
    return folder / "bundle"


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("int8"), "int8")


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("char", "int8"),
        ("gelu, tied", "int4"),
        ("llama, tied", "int8"),
        ("llama, tied", "int4"),
        ("odd width", "int4"),
        ("heads of 12", "int8"),
    ],
)
def test_every_family_passes_its_proof_exactly_and_as_it_runs(
    tmp_path: Path, name: str, precision: str
) -> None:
    bundle = Bundle.open(exported(tmp_path, precision, name))
    receipt = verify(bundle)
    assert receipt.passed
    exact = [check for check in receipt.checks if check.name.startswith("exact ")]
    assert len(exact) == (6 if name == "heads of 12" else 12)  # of one or two lowerings
    assert max(check.difference.relative for check in exact) < 1e-5
    assert receipt.quality.quality.tokens == 480  # 15 of 23 whole windows of 32
    limit = {"int8": 3e-3, "int4": 0.2}[precision]
    assert 0 < receipt.quality.quality.kl < limit
    quantization = bundle.manifest.quantization
    assert 0 < quantization.quality.kl < limit
    assert quantization.kept == []
    if MODELS[name].get("tie_embeddings"):
        assert "head.weight" not in bundle.manifest.weights
        assert bundle.manifest.weights["token_embedding.weight"].dtype == "U8"
    with edgegpt.load(bundle.folder) as model:
        single = model.generate("The wind", max_new_tokens=20)
        batch = model.generate(["The wind", "No answer"], max_new_tokens=20)
        assert (
            batch[0].token_ids[: single.first_near_tie] == single.token_ids[: single.first_near_tie]
        )


def test_int4_takes_half_the_bytes_of_int8(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("int8", "int4"):
        bundle = Bundle.open(exported(tmp_path / precision, precision, **ONE_GRAPH))
        sizes[precision] = bundle.manifest.weights["blocks.0.feed_forward.up.weight"].size
    assert sizes["int4"] * 2 == sizes["int8"] == 32 * 128


def test_past_the_budget_nothing_is_written_and_the_worst_layers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"int4 moves the model too far.*weight \(.*--keep-fp32"):
        exported(tmp_path, "int4", max_kl=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_as_many_layers_as_the_budget_needs_get_8_bits(tmp_path: Path) -> None:
    some = Bundle.open(exported(tmp_path / "a", "int4", max_kl=0.005, **ONE_GRAPH))
    fewer = Bundle.open(exported(tmp_path / "b", "int4", max_kl=0.02, **ONE_GRAPH))
    for bundle, limit in ((some, 0.005), (fewer, 0.02)):
        manifest = bundle.manifest
        assert manifest.quantization.quality.kl <= limit
        assert manifest.quantization.kept == []
        assert manifest.quantization.finer_block == manifest.quantization.block == 32
        for name in manifest.quantization.finer:
            assert manifest.weights[name].shape[2] == 32
        assert verify(bundle).passed
    assert len(some.manifest.quantization.finer) > len(fewer.manifest.quantization.finer) > 0


def test_auto_also_keeps_layers_in_float32_if_8_bits_are_not_enough(tmp_path: Path) -> None:
    bundle = Bundle.open(exported(tmp_path, "int4", max_kl=1e-5, keep_fp32="auto", **ONE_GRAPH))
    quantization = bundle.manifest.quantization
    assert quantization.quality.kl <= 1e-5
    assert len(quantization.kept) > 0
    for name in quantization.kept:
        assert bundle.manifest.weights[name].dtype == "F32"


def test_int8_gets_finer_blocks_where_the_budget_needs_them(tmp_path: Path) -> None:
    usual = Bundle.open(exported(tmp_path / "a", "int8", **ONE_GRAPH)).manifest.quantization
    assert (usual.block, usual.finer) == (32, [])
    budget = 0.9 * usual.quality.kl
    tight = Bundle.open(exported(tmp_path / "b", "int8", max_kl=budget, **ONE_GRAPH))
    found = tight.manifest.quantization
    assert found.quality.kl <= budget
    assert found.finer_block == 16
    for name in found.finer:
        assert tight.manifest.weights[name].shape[2] == 16
    assert len(found.finer) > 0


def test_layers_are_kept_by_name_or_by_its_beginning(tmp_path: Path) -> None:
    kept = ("head", "blocks.1.attention")
    bundle = Bundle.open(exported(tmp_path, "int8", keep_fp32=kept, **ONE_GRAPH))
    assert bundle.manifest.quantization.kept == [
        "blocks.1.attention.proj.weight",
        "blocks.1.attention.qkv.weight",
        "head.weight",
    ]


@pytest.mark.parametrize("layer", ["blocks.7", "hea", "blocks.1.attention.qkv.weight.x", ""])
def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path: Path, layer: str) -> None:
    with pytest.raises(InvalidInputError, match=f"no layer '{layer}'"):
        exported(tmp_path, "int8", keep_fp32=(layer,))


def test_a_row_of_a_long_prompt_does_not_depend_on_its_neighbours(int8_bundle: Path) -> None:
    """The prefill graph rounds each activation row with its own scale, to the same bits."""
    engine = open_engine(Bundle.open(int8_bundle), EngineOptions(threads=1))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (3, SHORT_STEP + 4))
    positions = np.tile(np.arange(ids.shape[1]), (3, 1))
    together = engine.new_state(3, 32)
    together.step(ids, np.zeros(3, dtype=np.int64), positions)
    for row in range(3):
        alone = engine.new_state(1, 32)
        alone.step(ids[row, None], np.zeros(1, dtype=np.int64), positions[:1])
        np.testing.assert_array_equal(alone.logits()[0], together.logits()[row])


def test_long_prompts_run_on_the_graph_that_is_made_for_them(int8_bundle: Path) -> None:
    bundle = Bundle.open(int8_bundle)
    quick, exact = (
        open_engine(bundle, EngineOptions(threads=1), part=part) for part in ("decoder", "exact")
    )
    assert exact.prefill is None
    ids = np.random.default_rng(0).integers(0, 30, (1, SHORT_STEP + 4))
    for length in (SHORT_STEP, SHORT_STEP + 1):
        states = [engine.new_state(1, 32) for engine in (quick, exact)]
        for state in states:
            state.step(ids[:, :length], np.array([0]), np.array([[length - 1]]))
        used = [state.last.session for state in states]
        assert used[0] is (quick.prefill if length > SHORT_STEP else quick.session)
        difference = abs(states[0].logits() - states[1].logits()).max()
        assert 0 < difference < 0.2 * abs(states[1].logits()).max()


def test_many_rows_decode_on_the_graph_for_long_prompts_and_the_proof_shows_it(
    int8_bundle: Path,
) -> None:
    bundle = Bundle.open(int8_bundle)
    engine = open_engine(bundle, EngineOptions(threads=1))
    used = []
    for rows in (MANY_ROWS - 1, MANY_ROWS):
        state = engine.new_state(rows, 32)
        state.decode()
        used.append(state.last.session)
        state.step(np.zeros((rows, 2), dtype=np.int64), state.past_len, state.next_ids)
        used.append(state.last.session)
    assert used == [engine.session] * 2 + [engine.prefill] * 2
    (many,) = (check for check in verify(bundle).checks if check.name == "many rows")
    assert many.passed
    engine.prefill = engine.session
    assert Replay(bundle, golden_of(bundle), engine, 0.2).many_rows().difference != many.difference


def test_a_wrong_step_of_many_rows_fails_the_proof(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OrtState._decode

    def wrong(state: OrtState, count: int, longest: int) -> None:
        if count >= MANY_ROWS:
            state.past_len[:count] -= 1
        right(state, count, longest)

    monkeypatch.setattr(OrtState, "_decode", wrong)
    failed = {check.name for check in verify(Bundle.open(int8_bundle)).checks if not check.passed}
    assert failed == {"many rows"}


def test_the_loss_is_the_same_in_pieces(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a large vocabulary are fetched in pieces of a window."""
    bundle = Bundle.open(int8_bundle)
    engine = open_engine(bundle, EngineOptions(threads=1), part="exact")
    replay = Replay(bundle, golden_of(bundle), engine, 0.2)
    whole = replay.quality(bundle.manifest.quantization).quality
    monkeypatch.setattr(replay, "_pieces", lambda ids: [5, 9, ids.shape[1] - 14])
    pieces = replay.quality(bundle.manifest.quantization).quality
    assert (pieces.kl, pieces.perplexity) == pytest.approx((whole.kl, whole.perplexity), rel=1e-3)
    assert (pieces.tokens, pieces.top1_agreement) == (whole.tokens, whole.top1_agreement)


def test_a_proof_that_could_not_measure_the_loss_is_refused(
    int8_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(int8_bundle, tmp_path / "bundle"))
    path = bundle / GOLDEN_NAME
    replace(Golden.load(path), quality=[]).save(path)
    reseal(bundle)
    with pytest.raises(BundleError, match="is damaged: quality is missing"):
        verify(Bundle.open(bundle))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_the_command_takes_the_settings(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    settings = ["--method", "gptq", "--calibration", tmp_path / "text.txt", "--max-kl", "0.02"]
    settings += ["--keep-fp32", "auto", "--json"]
    code = run(
        "export", small_checkpoint, "--out", tmp_path / "b", "--precision", "int4", *settings
    )
    assert code == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["precision"] == "int4"
    assert receipt["quality"]["max_kl"] == 0.02
    quantization = Bundle.open(tmp_path / "b").manifest.quantization
    assert (quantization.method, quantization.block) == ("gptq", 32)
    assert run("inspect", tmp_path / "b") == 0
    assert "gptq, blocks of 32" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--max-kl", "0.1"], 2, "need --precision int8 or int4"),
        (["--keep-fp32", "auto"], 2, "needs a --precision other than float32"),
        (["--no-fast-prefill"], 2, "need --precision int8 or int4"),
        (["--precision", "float16", "--keep-fp32", "auto"], 1, "--keep-fp32 cannot be 'auto' in"),
        (["--precision", "int3"], 2, "'int3' is not one of"),
        (["--precision", "int4", "--max-kl", "-1"], 2, "-1"),
        (["--precision", "int4", "--max-kl", "1e-9"], 1, "The layers that cost most"),
        (["--precision", "int8", "--keep-fp32", "blocks.9"], 1, "no layer 'blocks.9'"),
        (["--precision", "int4", "--calibration", "nowhere.txt"], 1, "cannot read the calibration"),
    ],
)
def test_bad_settings_are_one_sentence(
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run("export", small_checkpoint, "--out", tmp_path / "b", *arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b").exists()


def test_the_copy_for_prompts_can_be_left_out(tmp_path: Path, int8_bundle: Path) -> None:
    small = Bundle.open(exported(tmp_path, "int8", fast_prefill=False))
    parts = ["decoder", "exact", "exact", "exact", "half"]
    assert [graph.part for graph in small.manifest.graphs] == parts
    assert not any(name.endswith(".columns") for name in small.manifest.weights)
    assert open_engine(small, EngineOptions(threads=1)).prefill is None
    whole = Bundle.open(int8_bundle).manifest.weights
    copies = [entry for name, entry in whole.items() if name.endswith(".columns")]
    assert sum(entry.size for entry in copies) == 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128)


def test_a_prefill_graph_that_loses_too_much_is_left_out(tmp_path: Path) -> None:
    """Activations rounded by the row lose more than those rounded by the block."""
    write_checkpoint(tmp_path / "ckpt", random_model(small_config()))

    def export(name: str, **settings: object) -> float:
        wanted = ExportSettings(method="rtn", **settings)
        receipt = export_bundle(
            tmp_path / "ckpt", tmp_path / name, precision="int8", settings=wanted
        )
        assert receipt.quality is not None
        return receipt.quality.quality.kl

    quick = export("quick", max_kl=ANY_LOSS, fast_prefill=True)
    plain = export("plain", max_kl=ANY_LOSS, fast_prefill=False)
    assert plain < quick
    with pytest.warns(EdgeGPTWarning, match="the graph that feeds prompts faster is left out"):
        assert export("chosen", max_kl=(plain + quick) / 2) == plain
    parts = {graph.part for graph in Bundle.open(tmp_path / "chosen").manifest.graphs}
    assert parts == {"decoder", "exact", "half"}
