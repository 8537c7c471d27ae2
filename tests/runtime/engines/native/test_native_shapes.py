"""Random tiny models on the native engine: against PyTorch in float64, and with other vectors."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import NEEDS_COMPILER
from native_shapes import FLAVOURS, Flavour, Made, compiled, made
from numpy.typing import NDArray
from random_configs import configs
from small_models import write_checkpoint

from edgegpt.export import export_bundle
from edgegpt.model import GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native.library import Library
from edgegpt.runtime.engines.native.weights import pack_weights
from edgegpt.runtime.proof.tolerances import TOLERANCES

pytestmark = NEEDS_COMPILER
Logits = NDArray[np.float32]
# Of the logits' root mean square. One number that is rounded to its neighbour, as float32 and
# float64 may do, has consequences for a few logits, so that the largest error is not telling.
ROUNDED = 0.01


def logits_of(library: Library, weights: Path, texts: np.ndarray, pieces: Sequence[int]) -> Logits:
    """Return the logits [R, T, V] of texts [R, T], which are fed in pieces, by as many threads."""
    model, (rows, length) = library.open(weights, len(pieces)), texts.shape
    cache, past, found = model.new_rows(rows, length), 0, []
    for count in filter(None, pieces):
        logits = np.empty((rows, count, cache.vocab), dtype=np.float32)
        ids = np.ascontiguousarray(texts[:, past : past + count]).reshape(-1)  # (R * T,)
        counts, pasts = np.full(rows, count, dtype=np.int32), np.full(rows, past)
        places = np.arange(rows * count, dtype=np.int32)
        cache.step(np.arange(rows, dtype=np.int32), counts, pasts, ids, places, logits)
        found.append(logits)
        past += count
    return np.concatenate(found, axis=1)


@torch.no_grad()
def compare(model: Made, flavour: Flavour, texts: np.ndarray, found: Logits) -> None:
    """Assert that the logits are those of the model in float64.

    Where PyTorch itself errs more in float32, for the model is ill-conditioned, four times that is
    allowed.
    """
    ids = torch.from_numpy(texts)
    wanted = model.model(ids).numpy()
    if flavour.precision in ("int8", "int4"):
        assert np.abs(found - wanted).max() <= TOLERANCES["int8"] * np.abs(wanted).max()
        assert np.square(found - wanted).mean() <= ROUNDED**2 * np.square(wanted).mean()
        return
    own = np.abs(model.model.float()(ids).numpy() - wanted).max()
    limit = max(TOLERANCES["float32"] * np.abs(wanted).max(), 4 * own)
    assert np.abs(found - wanted).max() <= limit


def check(config: GPTConfig, flavour: Flavour, seed: int) -> None:
    """Compile a model twice; compare what it computes."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, config.block_size + 1))
    texts = rng.integers(0, config.vocab_size, (2, length))
    cut = int(rng.integers(length))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = made(config, flavour, folder / "bundle", seed)
        pack_weights(model.bundle, folder / "weights.bin")
        library = compiled(model.bundle, folder / "vectors", "-O1")
        found = logits_of(library, folder / "weights.bin", texts, [length])
        compare(model, flavour, texts, found)
        plain = compiled(model.bundle, folder / "plain", "-O0", "-DEDGEGPT_PLAIN")
        assert plain.facts.target == b"plain"
        again = logits_of(plain, folder / "weights.bin", texts, [cut, length - cut])
        np.testing.assert_array_equal(again, found)


@settings(max_examples=4, deadline=None)
@given(config=configs(), flavour=FLAVOURS, seed=st.integers(0, 2**32 - 1))
def test_any_model_is_computed_with_bits_that_neither_vectors_nor_pieces_nor_threads_change(
    config: GPTConfig, flavour: Flavour, seed: int
) -> None:
    check(config, flavour, seed)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(config=configs(), flavour=FLAVOURS, seed=st.integers(0, 2**32 - 1))
def test_many_models_are_computed(config: GPTConfig, flavour: Flavour, seed: int) -> None:
    check(config, flavour, seed)
