"""The compiled engine of encoder-decoders: sources, rows that share them, and what it refuses."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from native_builds import NEEDS_COMPILER, built, native_engine
from native_models import PLAIN, bundle_of, fed, opened, pair, quantised_bundle
from numpy.typing import NDArray
from pair_checkpoints import PAIRS as TEXTS
from pair_checkpoints import write_pair_checkpoint
from seq2seq_models import VARIANTS, seq2seq

import edgegpt
from edgegpt.errors import EngineError, InvalidInputError
from edgegpt.export import export_bundle
from edgegpt.export.settings import ExportSettings
from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine, Sources
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.native import choice
from edgegpt.runtime.engines.native.library import NativeModel, NativeRows
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.proof.receipt_store import keep
from edgegpt.runtime.proof.verify import verify_engine

pytestmark = NEEDS_COMPILER
# More than a block of keys, a run of queries; a source of one token; more than a chunk together.
LENGTHS = [270, 1, 37]
TARGET = 150  # tokens, more than a chunk
CUTS = [1, 17, 1, 131]
FLOAT32, ROUNDED = 1e-5, 3e-2  # of the largest logit, as for other models
Ids = NDArray[np.int64]


def sources_of(model: Seq2Seq) -> list[Ids]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, model.config.encoder.vocab_size, length) for length in LENGTHS]


def target_of(model: Seq2Seq) -> Ids:
    return np.random.default_rng(1).integers(0, model.config.decoder.vocab_size, TARGET)


def read(engine: NativeModel, sources: list[Ids], rows_each: int = 1) -> NativeRows:
    """Return rows that read sources, `rows_each` of them each."""
    lengths = np.array([len(ids) for ids in sources], dtype=np.int32)
    encoded = engine.encode(lengths, np.concatenate(sources))
    return engine.new_rows(len(sources) * rows_each, TARGET, sources=encoded)


@torch.no_grad()
def error(model: Seq2Seq, source: Ids, target: Ids, logits: NDArray[np.float32]) -> float:
    """Return the largest difference from PyTorch, of the largest logit."""
    ids = torch.from_numpy(source)[None], torch.tensor([len(source)]), torch.from_numpy(target)
    wanted = model(ids[0], ids[1], ids[2][None])[0].numpy()
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


def check_all(model: Seq2Seq, engine: NativeModel, allowed: float) -> list[NDArray[np.float32]]:
    """Compare the logits of each source with PyTorch's, in two rows cut differently."""
    sources, target = sources_of(model), target_of(model)
    rows, found = read(engine, sources, 2), []
    for number, source in enumerate(sources):
        found.append(fed(rows, 2 * number, target, [TARGET]))
        assert error(model, source, target, found[-1]) < allowed
        np.testing.assert_array_equal(fed(rows, 2 * number + 1, target, CUTS), found[-1])
    return found


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    return pair("post-norm")


@pytest.fixture(scope="module")
def engine(model: Seq2Seq, tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    return opened(bundle_of(model, tmp_path_factory.mktemp("pair") / "bundle"), threads=2)


def test_logits_are_pytorchs_for_sources_of_all_lengths(
    model: Seq2Seq, engine: NativeModel
) -> None:
    check_all(model, engine, FLOAT32)


def test_stacks_may_differ_in_everything(tmp_path: Path) -> None:
    model = pair("unlike stacks")
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    check_all(model, opened(bundle_of(model, tmp_path / "bundle", kind="F16")), FLOAT32)


def test_distances_count_on_both_sides_in_sources_and_backwards_in_texts(tmp_path: Path) -> None:
    model = pair("biases by distance")
    check_all(model, opened(bundle_of(model, tmp_path / "bundle"), threads=2), FLOAT32)


def test_integers_give_what_rounded_activations_do_and_other_kernels_the_same_bits(
    tmp_path: Path,
) -> None:
    model = pair("pre-norm")
    bundle = quantised_bundle(model, tmp_path / "bundle", [8, 4, 4], 32)
    found = check_all(model, opened(bundle, threads=2), ROUNDED)
    plain = read(opened(bundle, PLAIN), sources_of(model))
    for row, wanted in enumerate(found):
        np.testing.assert_array_equal(fed(plain, row, target_of(model), [TARGET]), wanted)


def step(rows: NativeRows, ids: Ids, past: int) -> NDArray[np.float32]:
    """Feed the next token of each row; return the logits [R, V]."""
    numbers = np.arange(len(ids), dtype=np.int32)
    logits = np.empty((len(ids), rows.vocab), dtype=np.float32)
    rows.step(numbers, np.ones_like(numbers), np.full(len(ids), past), ids, numbers, logits)
    return logits


def test_bits_depend_neither_on_other_sources_nor_on_other_rows(
    model: Seq2Seq, engine: NativeModel
) -> None:
    sources, target = sources_of(model), target_of(model)[:4]
    together = read(engine, [*sources, *sources[::-1]], 3)  # three rows share a run of queries
    alone = [read(engine, [source]) for source in sources]
    for past, token in enumerate(target):
        found = step(together, np.full(18, token), past)
        for number, rows in enumerate(alone):
            wanted = np.repeat(step(rows, np.array([token]), past), 3, axis=0)
            np.testing.assert_array_equal(found[3 * number : 3 * number + 3], wanted)
            np.testing.assert_array_equal(found[3 * (5 - number) :][:3], wanted)


def test_rows_take_their_sources_along(model: Seq2Seq, engine: NativeModel) -> None:
    sources, texts = sources_of(model), np.random.default_rng(2).integers(0, 97, (4, 6))
    rows = read(engine, sources, 2)
    for past, tokens in enumerate(texts):
        step(rows, tokens, past)
    # The last source's beams change places in the first one's, and it gets those of the second.
    parents, moved = [5, 4, 2, 2], [2, 1]
    rows.copy([5, 4, 2], [0, 1, 3], 0, 4)
    rows.move_sources(moved)
    fresh = read(engine, [sources[each] for each in moved], 2)
    for past, tokens in enumerate(texts):
        step(fresh, tokens[parents], past)
    last = np.array([7, 8, 9, 10])
    np.testing.assert_array_equal(step(rows, last, 4), step(fresh, last, 4))


def test_sources_outlive_the_states_that_read_them_and_not_the_other_way_round(
    model: Seq2Seq, engine: NativeModel
) -> None:
    source, ids = sources_of(model)[2], np.array([3])
    encoded = engine.encode(np.array([len(source)], dtype=np.int32), source)
    first = engine.new_rows(1, 4, sources=encoded)
    wanted = step(first, ids, 0)
    del first
    second = engine.new_rows(1, 4, sources=encoded)
    del encoded
    np.testing.assert_array_equal(step(second, ids, 0), wanted)


@pytest.mark.parametrize(
    ("lengths", "ids", "told"),
    [
        ([0], [1], "0 tokens"),
        ([-5], [1], "-5 tokens"),
        ([301], [1] * 301, "301 tokens, and the encoder takes 1 to 300"),
        ([2], [5, 97], "id 97"),
        ([2], [5, -1], "id -1"),
        ([], [1], "1 to 65536 sources"),
    ],
)
def test_impossible_sources_are_refused(
    engine: NativeModel, lengths: list[int], ids: list[int], told: str
) -> None:
    with pytest.raises(EngineError, match=told):
        engine.encode(np.array(lengths, dtype=np.int32), np.array(ids))


def test_impossible_states_are_refused(model: Seq2Seq, engine: NativeModel) -> None:
    sources = sources_of(model)
    rows = read(engine, sources, 2)
    with pytest.raises(EngineError, match="4 rows cannot share 3 sources"):
        engine.new_rows(4, 8, sources=rows.sources)
    with pytest.raises(EngineError, match="needs sources"):
        engine.new_rows(4, 8)
    for parents in ([3], [-1], [0, 1, 2, 0], []):
        with pytest.raises(EngineError, match="source"):
            rows.move_sources(parents)
    calls: Any = engine.library.calls
    found, one = ctypes.c_void_p(), np.ones(1, dtype=np.int32)
    for arguments in (
        (None, 1, one.ctypes.data, sources[1].ctypes.data, 0, ctypes.byref(found)),
        (engine.handle, 1, None, sources[1].ctypes.data, 0, ctypes.byref(found)),
        (engine.handle, 1, one.ctypes.data, None, 0, ctypes.byref(found)),
        (engine.handle, 1, one.ctypes.data, sources[1].ctypes.data, 7, ctypes.byref(found)),
        (engine.handle, 1, one.ctypes.data, sources[1].ctypes.data, 0, None),
    ):
        assert calls.edgegpt_encode(*arguments, None) == 1
    assert calls.edgegpt_move_sources(None, 1, one.ctypes.data, None) == 1
    assert calls.edgegpt_move_sources(rows.handle, 1, None, None) == 1
    assert not found


# ---- around the engine -------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("pairs")
    checkpoint = write_pair_checkpoint(folder / "checkpoint", seq2seq(VARIANTS["bart"]))
    out = folder / "bundle"
    settings = ExportSettings(lowerings=("ort",), max_kl=1e9)
    export_bundle(checkpoint, out, precision="int8", settings=settings)
    return Bundle.open(out)


def test_it_passes_the_golden_vectors(bundle: Bundle) -> None:
    receipt = verify_engine(bundle, native_engine(bundle))
    assert receipt.passed
    assert "beams" in [check.name for check in receipt.checks]


def logits_of(engine: Engine) -> NDArray[np.float32]:
    """Return the logits of rows that are reordered across sources between two steps."""
    ids = np.array([[4, 9, 11, 7], [5, 30, 0, 0], [8, 8, 2, 0]])
    sources: Sources = engine.encode(ids, np.array([4, 2, 3]))
    with engine.new_state(6, 8, sources) as state:
        tokens = np.arange(12).reshape(6, 2)
        state.step(tokens, np.zeros(6, dtype=np.int64), np.zeros((6, 1), dtype=np.int64))
        state.reorder([5, 5, 0, 1], 2)
        state.next_ids[:], state.past_len[:] = 3, 2
        state.decode(4)
        return state.logits().copy()


def test_reordered_rows_are_onnx_runtimes(bundle: Bundle) -> None:
    wanted = logits_of(open_engine(bundle, EngineOptions("cpu", 1)))
    found = logits_of(native_engine(bundle))
    assert np.abs(found - wanted).max() < ROUNDED * np.abs(wanted).max()
    assert np.abs(found[0] - found[2]).max() > ROUNDED * np.abs(wanted).max()


def test_auto_takes_it_once_proved_and_its_texts_are_those_of_onnx_runtime(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(choice, "stored_engine", lambda _: built(bundle.folder))
    keep(verify_engine(bundle, native_engine(bundle)))
    texts, found = [source for source, _ in TEXTS[:5]], []
    for backend, name in (("cpu", "onnxruntime"), ("auto", "native")):
        with edgegpt.load(bundle.folder, backend, threads=1) as lm:
            greedy = lm.generate(texts, max_new_tokens=9, temperature=0)
            beams = lm.generate(texts, max_new_tokens=9, temperature=0, num_beams=3)
            assert lm.engine.info.name == name
        found.append([one.token_ids for one in (*greedy, *beams)])
    assert found[0] == found[1]


def test_a_model_is_closed_for_sources_too(bundle: Bundle) -> None:
    engine = native_engine(bundle)
    sources = engine.encode(np.array([[4]]), np.array([1]))
    for lengths in ([2], [0], [1, 1]):
        with pytest.raises(InvalidInputError, match="not in 1 rows of 1"):
            engine.encode(np.array([[4]]), np.array(lengths))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode(np.array([[4]]), np.array([1]))
    with pytest.raises(EngineError, match="closed"):
        engine.new_state(1, 8, sources)


def test_a_model_without_an_encoder_takes_no_source(small_bundle: Path) -> None:
    engine = native_engine(Bundle.open(small_bundle))
    with pytest.raises(InvalidInputError, match="no encoder"):
        engine.encode(np.array([[4]]), np.array([1]))
    assert engine.model is not None
    with pytest.raises(EngineError, match="encoder"):
        engine.model.encode(np.array([1], dtype=np.int32), np.array([4]))
