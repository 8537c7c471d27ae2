"""Random tiny models on the native engine: against PyTorch in float64, and with other vectors."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from native_builds import NEEDS_COMPILER
from native_models import PLAIN, fed, opened
from native_shapes import FLAVOURS, Flavour, made
from numpy.typing import NDArray
from random_configs import configs
from small_models import random_model, write_checkpoint

from edgegpt.export import export_bundle
from edgegpt.export.settings import ExportSettings
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.native.choice import open_built
from edgegpt.runtime.engines.native.library import NativeModel
from edgegpt.runtime.engines.native.prepare import build_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify_engine

pytestmark = NEEDS_COMPILER
Logits = NDArray[np.float32]
PHASES = (Phase.reuse, Phase.generate)  # each example is compiled: a smaller one would take long
# Root mean square of the errors, of that of the logits. A number that lies between two that it may
# be rounded to goes to either, which moves a few logits by far more. If later positions attend to
# one of these, what they round changes sides, too. Then the error is of the kind that rounding is,
# and at most as large.
ROUNDED = 0.01


@torch.no_grad()
def compare(model: GPT, flavour: Flavour, text: NDArray[np.int64], found: Logits) -> None:
    """Assert that the logits [T, V] are those of the model in float64.

    Where PyTorch itself errs more in float32, for the model is ill-conditioned, four times that is
    allowed.
    """
    ids = torch.from_numpy(text)[None]  # (1, T)
    wanted = model(ids)[0].numpy()
    if flavour.precision != "float32":
        limit = TOLERANCES[flavour.precision] * np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= limit
        moved = np.square(without_rounding(model)(ids)[0].numpy() - wanted).mean()
        allowed = max(ROUNDED**2 * np.square(wanted).mean(), moved)
        assert np.square(found - wanted).mean() <= allowed
        return
    own = np.abs(model.float()(ids)[0].numpy() - wanted).max()
    limit = max(TOLERANCES["float32"] * np.abs(wanted).max(), 4 * own)
    assert np.abs(found - wanted).max() <= limit


def without_rounding(model: GPT) -> GPT:
    """Return the model with activations as they are."""
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        layer._forward_pre_hooks.clear()
    return plain


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


@settings(max_examples=4, deadline=None, phases=PHASES)
@given(config=configs(), flavour=FLAVOURS, seed=st.integers(0, 2**32 - 1))
def test_any_model_is_computed_with_bits_that_neither_vectors_nor_pieces_nor_threads_change(
    config: GPTConfig, flavour: Flavour, seed: int
) -> None:
    check(config, flavour, seed)


@pytest.mark.long
@settings(max_examples=150, deadline=None, phases=PHASES)
@given(config=configs(), flavour=FLAVOURS, seed=st.integers(0, 2**32 - 1))
def test_many_models_are_computed(config: GPTConfig, flavour: Flavour, seed: int) -> None:
    check(config, flavour, seed)


@pytest.mark.long
@settings(max_examples=12, deadline=None, phases=PHASES)
@given(config=configs(), precision=st.sampled_from(["float32", "float16", "int8", "int4"]))
def test_what_is_exported_passes_its_proof_and_computes_what_onnx_runtime_does(
    config: GPTConfig, precision: str
) -> None:
    loss = ExportSettings(max_kl=1e9) if precision in ("int8", "int4") else None  # of noise
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = write_checkpoint(Path(scratch, "checkpoint"), random_model(config), None)
        export_bundle(checkpoint, Path(scratch, "bundle"), precision=precision, settings=loss)
        bundle = Bundle.open(Path(scratch, "bundle"))
        engine = open_built(bundle, build_engine(bundle, folder=Path(scratch, "engine")).built, 2)
        receipt = verify_engine(bundle, engine)
        assert receipt.passed, [check for check in receipt.checks if not check.passed]
        if precision == "float32":
            ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, config.block_size))
            found, wanted = (
                first_logits(each, ids) for each in (engine, open_engine(bundle, EngineOptions()))
            )
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def first_logits(engine: Engine, ids: NDArray[np.int64]) -> Logits:
    """Return the logits [T, V] of ids [1, T]."""
    with engine.new_state(1, ids.shape[1]) as state:
        state.step(ids, np.array([0]), np.arange(ids.shape[1])[None])
        logits: Logits = state.logits()[0].copy()
    engine.close()
    return logits
