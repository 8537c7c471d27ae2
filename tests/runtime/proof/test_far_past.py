"""The past of far prompts: the same everywhere, and made of the recorded tokens."""

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import random_model, small_config

from edgegpt.export.past import record_past
from edgegpt.runtime.proof.far_past import far_past

DRAWN = [0, 6, 2, 1, 2, 9, 5, 1]


def recorded(count: int = 10) -> list[NDArray[np.float16]]:
    """Return what `count` tokens left in four caches; token m of cache c left 10 c + m."""
    shape = (2, count, 6)
    return [
        np.broadcast_to(10.0 * c + np.arange(count)[:, None], shape).astype(np.float16)
        for c in range(4)
    ]


def test_the_drawn_tokens_never_change() -> None:
    """Golden vectors that were exported before depend on them."""
    first = next(far_past(recorded(), 8))
    assert first[0, :, 0].tolist() == DRAWN


def test_every_cache_gets_the_same_tokens_in_its_own_values() -> None:
    arrays = list(far_past(recorded(), 40))
    assert [array.shape for array in arrays] == [(2, 40, 6)] * 4
    assert all(array.dtype == np.float32 for array in arrays)
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(array, arrays[0] + 10 * number)


def test_only_the_first_slot_gets_the_first_token_and_all_others_occur() -> None:
    (tokens,) = far_past(recorded()[:1], 400)
    assert tokens[0, 0, 0] == 0
    assert set(tokens[0, 1:, 0].tolist()) == set(range(1, 10))


def test_a_single_token_fills_all_slots() -> None:
    (tokens,) = far_past(recorded(1)[:1], 5)
    assert not tokens.any()


@pytest.mark.parametrize("slots", [1, 7, 39])
def test_the_first_slots_do_not_depend_on_how_many_follow(slots: int) -> None:
    for short, long in zip(far_past(recorded(), slots), far_past(recorded(), 40), strict=True):
        np.testing.assert_array_equal(short, long[:, :slots])


def test_what_is_recorded_is_what_the_tokens_leave_and_exact_in_every_precision() -> None:
    model = random_model(small_config(n_kv_head=1, position="rope"))
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    past = record_past(model, text)
    assert [array.shape for array in past] == [(1, 8, 16)] * 4
    with torch.no_grad():
        zero = torch.zeros(1, dtype=torch.int64)
        cache = model.empty_cache(1, 8)
        _, present = model.forward_cached(torch.tensor([text]), zero, zero[None], cache)
    for array, tensor in zip(past, (part for layer in present for part in layer), strict=True):
        np.testing.assert_allclose(array, tensor[0].numpy(), rtol=2**-8, atol=2**-14)
        wide = array.astype(np.float32)
        np.testing.assert_array_equal(wide.astype(ml_dtypes.bfloat16).astype(np.float32), wide)


def test_models_with_many_heads_record_fewer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(small_config())
    one = 2 * 2 * 32  # values of a token: keys and values of two layers
    for values, tokens in ((5 * one, 5), (one, 2), (2**20, 8)):
        monkeypatch.setattr("edgegpt.export.past.MOST_VALUES", values)
        assert record_past(model, [1] * 8)[0].shape[1] == tokens
