"""The random past of far prompts: the same everywhere, exact in every precision, fair in scale."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from edgegpt.runtime.proof.random_past import random_past


def test_the_numbers_never_change() -> None:
    """Golden vectors that were exported before depend on them."""
    raw = b"".join(array.tobytes() for array in random_past(4, 2, 50, 6))
    assert (
        hashlib.sha256(raw).hexdigest()
        == "876d8169af5f455c83dadd50500d62af6c1f9dce79c4759a079c3ef520a8f13f"
    )
    (first,) = random_past(1, 1, 1, 4)
    assert (first * 64 + 128).tolist() == [[[235, 179, 105, 25]]]


def test_there_is_an_array_for_each_cache_and_all_differ() -> None:
    arrays = list(random_past(6, 3, 40, 8))
    assert [array.shape for array in arrays] == [(3, 40, 8)] * 6
    assert all(array.dtype == np.float32 for array in arrays)
    rows = [array.reshape(-1, 8) for array in arrays]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 6 * 3 * 40


@pytest.mark.parametrize("slots", [1, 7, 39])
def test_the_first_slots_do_not_depend_on_how_many_follow(slots: int) -> None:
    for short, long in zip(random_past(2, 3, slots, 5), random_past(2, 3, 40, 5), strict=True):
        np.testing.assert_array_equal(short, long[:, :slots])


def test_every_precision_holds_the_numbers_exactly_and_they_are_about_normal_in_scale() -> None:
    (numbers,) = random_past(1, 4, 500, 16)
    for kind in (np.float16, ml_dtypes.bfloat16):
        np.testing.assert_array_equal(numbers.astype(kind).astype(np.float32), numbers)
    assert abs(numbers.mean()) < 0.05
    assert 1.1 < numbers.std() < 1.2
    assert numbers.min() == -2
    assert numbers.max() == 127 / 64
