"""`State.fill`: a row with a given past goes on as if its tokens had been fed."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from host_engine import host_engine
from native_builds import NEEDS_COMPILER, native_engine
from tensorrt_machine import FLAVOURS, VOCAB, Machine, install, network

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.filling import row_bytes
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.errors import InvalidInputError

IDS = np.array([[3, 1, 4, 1, 5, 9]])
LENGTH = IDS.shape[1]


def open_cpu(bundle: Bundle) -> Engine:
    return open_engine(bundle, EngineOptions("cpu", threads=1))


@pytest.mark.parametrize(
    "opened", [open_cpu, host_engine, pytest.param(native_engine, marks=NEEDS_COMPILER)]
)
def test_a_filled_row_goes_on_like_the_row_whose_past_it_got(small_bundle: Path, opened) -> None:
    bundle = Bundle.open(small_bundle)
    fed, past_len = open_cpu(bundle).new_state(1, 32), np.array([LENGTH])
    fed.step(IDS, np.array([0]), np.array([[0]]))
    past = [cache[0, :, :LENGTH].copy() for cache in fed.caches]  # type: ignore[attr-defined]
    fed.step(IDS[:, :2], past_len, np.array([[0, 1]]))

    state = opened(bundle).new_state(3, 32)
    state.step(np.tile(IDS, (3, 1)), np.zeros(3, dtype=np.int64), np.zeros((3, 1), dtype=np.int64))
    state.fill([np.full_like(values, 7.0) for values in past], row=2)
    state.fill(iter(past), row=1)
    state.step(IDS[:, :2], past_len, np.array([[0, 1]]), first=1)
    np.testing.assert_allclose(state.logits(), fed.logits(), rtol=0, atol=1e-5)
    state.step(IDS[:, :2], past_len, np.array([[0, 1]]))  # row 0 has its own past still
    np.testing.assert_allclose(state.logits(), fed.logits(), rtol=0, atol=1e-5)
    state.step(IDS[:, :2], past_len, np.array([[0, 1]]), first=2)
    assert np.abs(state.logits() - fed.logits()).max() > 0.1


@pytest.mark.parametrize("opened", [open_cpu, pytest.param(native_engine, marks=NEEDS_COMPILER)])
def test_a_row_s_past_can_be_read_and_put_back_bit_for_bit(small_bundle: Path, opened) -> None:
    bundle, nothing = Bundle.open(small_bundle), np.zeros(1, dtype=np.int64)
    state = opened(bundle).new_state(3, 32)
    state.step(IDS, nothing, np.array([[0]]), first=1)
    past = state.past(LENGTH, row=1)
    reference = open_cpu(bundle).new_state(1, 32)
    reference.step(IDS, nothing, np.array([[0]]))
    for values, wanted in zip(past, reference.past(LENGTH), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-5)
    state.fill(past, row=2)
    for values, again in zip(past, state.past(LENGTH, row=2), strict=True):
        np.testing.assert_array_equal(again, values)
    assert not np.array_equal(state.past(LENGTH, row=0)[0], past[0])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_rows_of_tensorrt_are_filled_on_the_device(
    flavour: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(flavour, tmp_path)
    install(monkeypatch, machine.cuda)
    state = machine.engine().new_state(3, 20)  # the engine's own rows have 24 slots
    for row in range(3):  # the fake keeps a token's id in the key of its second head
        keys = np.array([[[0], [0]], [[row + 1], [row + 4]]], dtype=np.float32)  # (2, 2, 1)
        state.fill([keys, keys], row)
    state.next_ids[:], state.past_len[:] = 7, 2
    state.decode()
    expected = [network([row + 1, row + 4, 7]) for row in range(3)]
    np.testing.assert_array_equal(state.logits()[:, 0], expected)
    assert not machine.cuda.host.keys() - {array.pointer for array in pinned(state)}


def pinned(state) -> list:
    """Return the page-locked arrays that a session keeps."""
    session = state.session
    pairs = (session.ids, session.past_len, session.positions, session.single_logits)
    return [array for _, array in pairs]


def test_the_null_engine_takes_a_past_of_ids() -> None:
    state = NullEngine(network, VOCAB).new_state(2, 8)
    state.fill([np.array([[[5], [6]]], dtype=np.float32)], row=1)
    state.step(np.array([[7]]), np.array([2]), np.array([[0]]), first=1)
    np.testing.assert_array_equal(state.logits()[0, 0], network([5, 6, 7]))


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    state = NullEngine(network, VOCAB).new_state(2, 8)
    with pytest.raises(InvalidInputError, match=f"cannot fill row {row}: the state has 2 rows"):
        state.fill([np.zeros((1, 2, 1), dtype=np.float32)], row)


def test_more_slots_than_a_row_has_are_refused() -> None:
    state = NullEngine(network, VOCAB).new_state(2, 8)
    with pytest.raises(InvalidInputError, match="cannot fill 9 slots: a row has 8"):
        state.fill([np.zeros((1, 9, 1), dtype=np.float32)])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_bytes_of_a_row_are_rounded_to_nearest_and_padded(dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(2, 300, 4)).astype(np.float32)
    values[0, 0] = [1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20]  # ties, and above
    raw = row_bytes(values, 310, dtype)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    found = raw.view(kind).reshape(2, 310, 4)
    np.testing.assert_array_equal(found[:, :300], values.astype(kind))
    assert not found[:, 300:].any()
