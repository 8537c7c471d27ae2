"""Random tiny models on the native engine: against PyTorch in float64, and with other vectors."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import NEEDS_COMPILER
from native_models import PLAIN, fed, opened
from native_shapes import FLAVOURS, Flavour, made
from numpy.typing import NDArray
from random_configs import configs

from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.engines.native.library import NativeModel
from edgegpt.runtime.proof.tolerances import TOLERANCES

pytestmark = NEEDS_COMPILER
Logits = NDArray[np.float32]
# Root mean square of the errors, of that of the logits. A number that lies between two integers may
# be rounded to either, which moves a few logits by far more.
ROUNDED = 0.01


@torch.no_grad()
def compare(model: GPT, flavour: Flavour, text: NDArray[np.int64], found: Logits) -> None:
    """Assert that the logits [T, V] are those of the model in float64.

    Where PyTorch itself errs more in float32, for the model is ill-conditioned, four times that is
    allowed.
    """
    ids = torch.from_numpy(text)[None]  # (1, T)
    wanted = model(ids)[0].numpy()
    if flavour.bits:
        assert np.abs(found - wanted).max() <= TOLERANCES["int4"] * np.abs(wanted).max()
        assert np.square(found - wanted).mean() <= ROUNDED**2 * np.square(wanted).mean()
        return
    own = np.abs(model.float()(ids)[0].numpy() - wanted).max()
    limit = max(TOLERANCES["float32"] * np.abs(wanted).max(), 4 * own)
    assert np.abs(found - wanted).max() <= limit


def logits_of(model: NativeModel, text: NDArray[np.int64], pieces: Sequence[int]) -> list[Logits]:
    """Return the logits [T, V] of a text beside another one, with caches of both types."""
    rows = [model.new_rows(2, len(text), cache) for cache in ("float32", "float16")]
    return [fed(each, 1, text, pieces) for each in rows]


def check(config: GPTConfig, flavour: Flavour, seed: int) -> None:
    """Compile a model twice; compare what it computes."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, config.vocab_size, rng.integers(1, config.block_size + 1))
    cut = int(rng.integers(len(text)))
    with tempfile.TemporaryDirectory() as scratch:
        bundle, model = made(config, flavour, Path(scratch, "bundle"), seed)
        found = logits_of(opened(bundle), text, [len(text)])
        compare(model, flavour, text, found[0])
        pieces = [each for each in (cut, len(text) - cut) if each]
        again = logits_of(opened(bundle, PLAIN, "-O0", threads=2), text, pieces)
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
