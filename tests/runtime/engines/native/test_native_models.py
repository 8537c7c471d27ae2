"""Every switch of a model, every kind of weights: the compiled engine against PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from native_builds import NEEDS_COMPILER
from native_models import CASES, PLAIN, bundle_of, case, fed, narrow, opened, quantised_bundle

from edgegpt.model import GPT
from edgegpt.runtime.engines.native.library import NativeModel, NativeRows

pytestmark = NEEDS_COMPILER
LENGTH = 290  # more than a block of keys, and no multiple of anything
CUTS = [1, 130, 17, 1, 1, 140]
# Of the largest logit: as the proof has it for float32; with activations rounded to int8, or to
# bfloat16, whose numbers are up to 2^-7 apart, so that a sum on a border goes to either; with keys
# and values of float16.
FLOAT32, ROUNDED, BFLOAT16, NARROW = 1e-5, 3e-2, 2**-7, 1e-2


def text_of(model: GPT) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab_size, LENGTH)


@torch.no_grad()
def error(model: GPT, ids: np.ndarray, logits: np.ndarray) -> float:
    """Return the largest difference from PyTorch, of the largest logit."""
    wanted = model(torch.from_numpy(ids)[None])[0].numpy()
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", CASES)
def test_logits_are_pytorchs_however_a_text_is_cut(name: str, tmp_path: Path) -> None:
    model = case(name)
    ids, bundle = text_of(model), bundle_of(model, tmp_path / "bundle")
    rows = opened(bundle, threads=2).new_rows(2, LENGTH)
    whole = fed(rows, 0, ids, [LENGTH])
    assert error(model, ids, whole) < FLOAT32
    np.testing.assert_array_equal(fed(rows, 1, ids, CUTS), whole)
    for wanted in ([LENGTH - 1], [200, 9, 3, 3], [*[150] * 130, 149, 151]):
        np.testing.assert_array_equal(only(rows, ids, wanted), whole[wanted])


def only(rows: NativeRows, ids: np.ndarray, wanted: list[int]) -> np.ndarray:
    """Return the logits of some tokens [W, V]: of others, less is computed."""
    logits = np.empty((len(wanted), rows.vocab), dtype=np.float32)
    one = np.array([0], dtype=np.int32), np.array([len(ids)], dtype=np.int32)
    rows.step(*one, np.array([0]), ids, np.array(wanted, dtype=np.int32), logits)
    return logits


@pytest.mark.parametrize(
    ("name", "bits"), [("llama", [8, 4, 4]), ("odd sizes", [8]), ("windows and caps", [4])]
)
def test_integers_give_what_rounded_activations_do(
    name: str, bits: list[int], tmp_path: Path
) -> None:
    model = case(name)
    bundle = quantised_bundle(model, tmp_path / "bundle", bits, 32)
    ids, engine = text_of(model), opened(bundle, threads=2)
    rows, plain = engine.new_rows(2, LENGTH), opened(bundle, PLAIN).new_rows(1, LENGTH)
    whole = fed(rows, 0, ids, [LENGTH])
    assert error(model, ids, whole) < ROUNDED
    np.testing.assert_array_equal(fed(rows, 1, ids, CUTS), whole)
    np.testing.assert_array_equal(fed(plain, 0, ids, [LENGTH]), whole)


@pytest.mark.parametrize("count", range(2, 10))
def test_bits_are_the_same_in_a_batch_of_any_size(integer_engine: NativeModel, count: int) -> None:
    rng = np.random.default_rng(count)
    texts = [rng.integers(0, 97, 3 + 2 * row) for row in range(count)]
    rows, alone = integer_engine.new_rows(count, 40), []
    for row, text in enumerate(texts):
        fed(rows, row, text[:-1], [len(text) - 1])
        alone.append(fed(integer_engine.new_rows(1, 40), 0, text, [len(text)])[-1])
    number, ones = np.arange(count, dtype=np.int32), np.ones(count, dtype=np.int32)
    past, last = np.array([len(text) - 1 for text in texts]), np.array([t[-1] for t in texts])
    found = np.empty((count, 97), dtype=np.float32)
    rows.step(number, ones, past, last, number, found)
    np.testing.assert_array_equal(found, alone)


@pytest.fixture(scope="module")
def integer_engine(tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    """Return an engine with integers of both kinds, and matrices of floats."""
    folder = tmp_path_factory.mktemp("integers") / "bundle"
    return opened(quantised_bundle(case("llama"), folder, [8, 4, 32], 32), threads=2)


@pytest.mark.parametrize(
    ("kind", "name", "allowed"),
    [("F16", "llama", FLOAT32), ("BF16", "llama", BFLOAT16), ("BF16", "odd sizes", BFLOAT16)],
)
def test_weights_of_16_bits_are_read_as_what_they_are(
    kind: str, name: str, allowed: float, tmp_path: Path
) -> None:
    model = case(name)
    narrow(model, kind)
    ids, bundle = text_of(model), bundle_of(model, tmp_path / "bundle", kind=kind)
    whole = fed(opened(bundle).new_rows(1, LENGTH), 0, ids, [LENGTH])
    assert error(model, ids, whole) < allowed
    plain = opened(bundle, PLAIN).new_rows(1, LENGTH)
    np.testing.assert_array_equal(fed(plain, 0, ids, CUTS), whole)


@pytest.mark.parametrize("flags", [[], [PLAIN]])
def test_caches_of_16_bits_give_nearly_the_same(flags: list[str], tmp_path: Path) -> None:
    model = case("windows and caps")
    ids, engine = text_of(model), opened(bundle_of(model, tmp_path / "bundle"), *flags)
    rows = engine.new_rows(2, LENGTH, "float16")
    whole = fed(rows, 0, ids, [LENGTH])
    assert FLOAT32 < error(model, ids, whole) < NARROW
    np.testing.assert_array_equal(fed(rows, 1, ids, CUTS), whole)


@pytest.mark.parametrize("cache", ["float32", "float16"])
def test_rows_are_copied_all_at_once(cache: str, tmp_path: Path) -> None:
    model = case("odd sizes")
    engine = opened(bundle_of(model, tmp_path / "bundle"))
    texts = [text_of(model)[begin : begin + 21] for begin in (0, 40, 80)]

    def end(rows: NativeRows, row: int, text: np.ndarray) -> np.ndarray:
        """Return the logits after a row's last token, which is fed again."""
        logits = np.empty((1, rows.vocab), dtype=np.float32)
        one = np.array([row], dtype=np.int32), np.array([1], dtype=np.int32)
        rows.step(*one, np.array([20]), text[20:].copy(), np.zeros(1, dtype=np.int32), logits)
        return logits

    rows = engine.new_rows(4, 40, cache)
    for row, text in enumerate(texts):
        fed(rows, row, text, [21])
    wanted = [end(rows, row, text) for row, text in enumerate(texts)]
    rows.copy([1, 0, 2, 2], [0, 1, 3, 2], 0, 20)  # two change places, one is copied, one stays
    for row, source in enumerate([1, 0, 2, 2]):
        np.testing.assert_array_equal(end(rows, row, texts[source]), wanted[source])
