"""Bundles of encoder-decoders: written, proved, opened, and wrong ones refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from manifests import sealed
from pair_checkpoints import PAIRS, USAGE, write_pair_checkpoint
from reseal import reseal
from seq2seq_models import STACK, VARIANTS, seq2seq

from edgegpt.checkpoint import load_checkpoint
from edgegpt.cli import cli
from edgegpt.errors import BundleError, CheckpointError, EngineError, InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.pair_texts import held_out_pairs
from edgegpt.model import GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Beams, Golden
from edgegpt.runtime.bundle.manifest import Manifest
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.tensorrt.builder import graph_for
from edgegpt.runtime.engines.tensorrt.flavour import Flavour
from edgegpt.runtime.proof.verify import verify

FLOAT32 = 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_encoder_decoder_is_proved_in_all_lowerings(
    tmp_path: Path, name: str
) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS[name]))
    receipt = export_bundle(checkpoint, tmp_path / "bundle")
    assert receipt.passed
    parts = {
        (graph.lowering, graph.part) for graph in Bundle.open(tmp_path / "bundle").manifest.graphs
    }
    assert parts == {
        (lowering, part)
        for lowering in ("ort", "standard", "legacy")
        for part in ("decoder", "encoder")
    }
    checked = {check.name for check in receipt.checks}
    assert {"prefill", "decode", "standard decode", "legacy far positions"} <= checked


@pytest.mark.parametrize("precision", ["float16", "int8", "int4"])
def test_encoder_decoders_are_proved_in_other_precisions(tmp_path: Path, precision: str) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS["paper"]))
    settings = ExportSettings(max_kl=1.0) if precision.startswith("int") else None
    receipt = export_bundle(checkpoint, tmp_path / "bundle", precision=precision, settings=settings)
    assert receipt.passed
    exact = [check for check in receipt.checks if check.name.startswith("exact")]
    assert bool(exact) == precision.startswith("int")
    assert all(check.difference.relative <= FLOAT32 for check in exact)


def test_bfloat16_waits_for_a_gpu(tmp_path: Path) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS["t5"]))
    with pytest.warns(match="is not proved"):
        receipt = export_bundle(checkpoint, tmp_path / "bundle", precision="bfloat16")
    assert receipt.outcome == "pending"


def test_an_encoder_that_reads_more_than_its_decoder_writes_is_exported_whole(
    tmp_path: Path,
) -> None:
    model = seq2seq(STACK | {"block_size": 24}, encoder=STACK | {"block_size": 40})
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", model)
    for context, expected in ((None, (40, 24)), (30, (30, 24))):
        out = tmp_path / str(context)
        export_bundle(checkpoint, out, context=context, settings=ExportSettings(lowerings=("ort",)))
        info = Bundle.open(out).manifest.model_info
        assert info.encoder is not None
        assert (info.encoder.block_size, info.block_size) == expected
    call = ["verify", str(tmp_path / "30"), "--bisect", str(checkpoint)]
    assert CliRunner().invoke(cli, call).exit_code == 0
    with pytest.raises(InvalidInputError, match="the model can see 1 to 40 tokens"):
        export_bundle(checkpoint, tmp_path / "long", context=41)


def two_vocabularies() -> Seq2Seq:
    decoder = GPTConfig.from_dict(STACK | {"position": "sinusoidal"})
    encoder = replace(decoder, vocab_size=34, block_size=17, n_layer=1)
    torch.manual_seed(0)
    return Seq2Seq(Seq2SeqConfig(encoder, decoder, shared_embedding=False)).eval()


def test_sources_may_have_a_vocabulary_and_a_length_of_their_own(tmp_path: Path) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", two_vocabularies(), own_sources=True)
    receipt = export_bundle(checkpoint, tmp_path / "bundle")
    assert receipt.passed
    assert {"tokenizer", "source tokenizer"} <= {check.name for check in receipt.checks}
    golden = Golden.load(tmp_path / "bundle" / "golden.safetensors")
    sources = [prompt.source for prompt in golden.prefill]
    assert set(np.concatenate(sources).tolist()) == set(range(34))
    assert max(map(len, sources)) == 17
    assert set(np.concatenate([prompt.ids for prompt in golden.prefill]).tolist()) == set(range(41))


def test_a_checkpoint_without_pairs_or_tokenizer_is_proved_on_what_the_model_writes(
    tmp_path: Path,
) -> None:
    model = seq2seq(VARIANTS["paper"])
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", model, pairs=False)
    (checkpoint / "tokenizer.json").unlink()
    pairs = held_out_pairs(load_checkpoint(checkpoint))
    assert len({len(source) for source, _ in pairs}) > 8
    assert all(target[0] == USAGE.start_ids[0] for _, target in pairs)
    assert export_bundle(checkpoint, tmp_path / "bundle").passed


def test_held_out_pairs_have_the_starts_and_ends_of_the_usage(tmp_path: Path) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS["paper"]))
    loaded = load_checkpoint(checkpoint)
    pairs = held_out_pairs(loaded)
    assert len(pairs) == len(PAIRS)
    assert all(source[-1] == 2 and target[0] == 1 for source, target in pairs)
    assert sum(target[-1] == 2 for _, target in pairs) > len(pairs) // 2  # others were too long
    foreign = replace(loaded, pairs="Ω\tpack\n")
    with pytest.raises(CheckpointError, match=r"held_out.tsv does not fit: the character 'Ω'"):
        held_out_pairs(foreign)


def test_a_shorter_context_limits_both_sides(tmp_path: Path) -> None:
    checkpoint = write_pair_checkpoint(tmp_path / "ckpt", seq2seq(VARIANTS["bart"]))
    assert export_bundle(checkpoint, tmp_path / "bundle", context=9).passed
    info = Bundle.open(tmp_path / "bundle").manifest.model_info
    assert (info.block_size, info.encoder.block_size) == (9, 9)
    with pytest.raises(InvalidInputError, match="context is 25; the model can see 1 to 24"):
        export_bundle(checkpoint, tmp_path / "other", context=25)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    checkpoint = write_pair_checkpoint(folder / "ckpt", seq2seq(VARIANTS["paper"]))
    export_bundle(checkpoint, folder / "bundle")
    return folder / "bundle"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda beams: [], "beams"),
        (lambda beams: [replace(beams[0], scores=beams[0].scores[:2])], r"beams\.0\.scores"),
        (lambda beams: [replace(beams[0], scale=0.0)], r"beams\.0\.scores"),
        (lambda beams: [beams[0], replace(beams[1], scale=np.inf)], r"beams\.1\.scores"),
        (lambda beams: [replace(beams[0], source=np.array([99]))], r"beams\.0\.source"),
    ],
)
def test_golden_beams_that_could_show_no_error_are_refused(
    bundle: Path, tmp_path: Path, change: Callable[[list[Beams]], list[Beams]], told: str
) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    golden = Golden.load(damaged / GOLDEN_NAME)
    replace(golden, beams=change(golden.beams)).save(damaged / GOLDEN_NAME)
    reseal(damaged)
    with pytest.raises(BundleError, match=f"is damaged: {told} is missing, or not of"):
        verify(Bundle.open(damaged))


def another_last_text(found: Beams) -> Beams:
    *best, last = found.texts
    return replace(found, texts=[*best, (last + 1) % 30])


def another_last_score(found: Beams) -> Beams:
    return replace(found, scores=found.scores - np.float32([0, 0, 0, 0.01]))


@pytest.mark.parametrize("change", [another_last_text, another_last_score])
def test_each_text_of_a_search_and_its_score_count_not_the_best_alone(
    bundle: Path, tmp_path: Path, change: Callable[[Beams], Beams]
) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    golden = Golden.load(damaged / GOLDEN_NAME)
    clear = next(found for found in golden.beams if not found.near_tie)
    replace(golden, beams=[change(clear), clear]).save(damaged / GOLDEN_NAME)
    reseal(damaged)
    failed = [check.name for check in verify(Bundle.open(damaged)).checks if not check.passed]
    assert failed == ["beams", "standard beams", "legacy beams"]


def test_a_score_may_be_off_by_twice_the_tolerance_of_the_largest_logit(
    bundle: Path, tmp_path: Path
) -> None:
    off = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    golden = Golden.load(off / GOLDEN_NAME)
    clear = next(found for found in golden.beams if not found.near_tie)
    assert clear.scale > 2
    for share, passes in ((0.8, True), (1.2, False)):
        wrong = clear.scores + np.float32(share * 2 * FLOAT32 * clear.scale)
        replace(golden, beams=[replace(clear, scores=wrong)]).save(off / GOLDEN_NAME)
        reseal(off)
        assert verify(Bundle.open(off)).passed == passes


def test_rows_keep_their_sources_when_they_move(bundle: Path) -> None:
    engine = open_engine(Bundle.open(bundle), EngineOptions("cpu"))
    lengths = np.array([3, 7, 5])
    sources = engine.encode(np.random.default_rng(0).integers(3, 41, (3, 7)), lengths)
    ids = np.array([[1, 8], [1, 9], [1, 10]])

    def last(parents: list[int]) -> np.ndarray:
        state = engine.new_state(3, 12, sources)
        state.step(ids, np.zeros(3, dtype=np.int64), np.array([[1]] * 3))
        state.reorder(parents, 2)
        count = len(parents)
        state.next_ids[:count] = 11
        state.past_len[:count] = 2
        state.decode(count)
        return state.logits()[:, 0].copy()

    plain = last([0, 1, 2])
    assert np.array_equal(last([2, 0, 1]), plain[[2, 0, 1]])
    assert np.array_equal(last([2, 1]), plain[[2, 1]])
    assert np.abs(plain[0] - plain[1]).max() > 0.1
    # The sources themselves are as before, for the next state.
    assert np.array_equal(last([0, 1, 2]), plain)


def test_rows_of_one_source_stay_together(bundle: Path) -> None:
    engine = open_engine(Bundle.open(bundle), EngineOptions("cpu"))
    sources = engine.encode(np.full((2, 4), 7), np.array([4, 2]))
    with pytest.raises(InvalidInputError, match="5 rows cannot share 2 sources evenly"):
        engine.new_state(5, 8, sources)
    state = engine.new_state(6, 8, sources)
    for parents in ([0, 1, 3, 3, 4, 5], [0, 1]):
        with pytest.raises(InvalidInputError, match="each source needs 3 rows, side by side"):
            state.reorder(parents, 1)
    for first, count in ((0, 2), (1, 3)):
        ids = np.zeros((count, 1), dtype=np.int64)
        with pytest.raises(InvalidInputError, match="not all rows of their sources: each has 3"):
            state.step(ids, ids[:, 0], ids, first)
    state.reorder([3, 3, 5, 0, 1, 1], 1)  # both sources, one after the other


def test_other_backends_are_refused_by_name(bundle: Path) -> None:
    for backend in ("cuda", "tensorrt"):
        with pytest.raises(EngineError, match=f"do not run on the backend {backend}; use cpu"):
            open_engine(Bundle.open(bundle), EngineOptions(backend))
    flavour = Flavour("tensorrt-rtx", SimpleNamespace(__version__="1.7.1"))
    with pytest.raises(EngineError, match="do not run on the backend tensorrt-rtx; use cpu"):
        graph_for(flavour, Bundle.open(bundle))


def without(ports: list[dict], role: str) -> list[dict]:
    """Return the ports without the first of a role."""
    first = next(port for port in ports if port["role"] == role)
    return [port for port in ports if port is not first]


@pytest.mark.parametrize(
    ("part", "side", "role", "told"),
    [
        ("encoder", "inputs", "source_ids", "an encoder has source_ids and source_len"),
        ("encoder", "outputs", "source", "has 5 ports for sources; .* it needs 6, outputs"),
        ("decoder", "inputs", "source", "has 5 ports for sources; .* it needs 6, inputs"),
        ("decoder", "inputs", "source_len", "one each of ids, logit_positions, source_len"),
    ],
)
def test_a_graph_that_lacks_a_port_for_sources_is_refused(
    bundle: Path, part: str, side: str, role: str, told: str
) -> None:
    document = json.loads((bundle / "edgegpt.json").read_text())
    graph = next(graph for graph in document["graphs"] if graph["part"] == part)
    graph[side] = without(graph[side], role)
    with pytest.raises(BundleError, match=told):
        Manifest.parse(sealed(document))


def test_an_encoder_of_a_model_without_one_is_refused(bundle: Path) -> None:
    document = json.loads((bundle / "edgegpt.json").read_text())
    document["model"] = document["model"]["decoder"]
    document["graphs"].reverse()
    with pytest.raises(BundleError, match="is an encoder; the model has none"):
        Manifest.parse(sealed(document))
