"""The counter-based random numbers: published answers, purity, and the noise's distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegpt.runtime.generation import philox
from edgegpt.runtime.generation.philox import gumbel, philox4x32

ALL_ONES = 0xFFFFFFFF
# kat_vectors of Random123 1.14, "philox4x32 10": counter, key, answer.
KNOWN_ANSWERS = {
    "zeros": (
        [0, 0, 0, 0],
        (0, 0),
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    ),
    "ones": (
        [ALL_ONES] * 4,
        (ALL_ONES, ALL_ONES),
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    "pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}
IDS = np.arange(50)
words64 = st.integers(0, 2**64 - 1)
words32 = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_the_published_answers_come_out(name):
    counter, key, answer = KNOWN_ANSWERS[name]
    found = philox4x32(np.array(counter, dtype=np.uint64)[:, None], key)
    assert [hex(word) for word in found[:, 0]] == [hex(word) for word in answer]


def test_many_counters_at_once_give_what_each_gives_alone():
    counters = np.array([counter for counter, _, _ in KNOWN_ANSWERS.values()], dtype=np.uint64).T
    together = philox4x32(counters, (7, 9))
    for column in range(counters.shape[1]):
        alone = philox4x32(counters[:, column : column + 1], (7, 9))
        np.testing.assert_array_equal(together[:, column : column + 1], alone)


def test_noise_is_made_from_the_words_of_its_own_counter_and_key():
    (token, step, *series), key, words = KNOWN_ANSWERS["pi"]
    found = gumbel(
        seed=key[0] | key[1] << 32,
        series=series[0] | series[1] << 32,
        step=step,
        ids=np.array([token]),
    )
    bits = (words[0] >> 6 << 26) + (words[1] >> 6)  # 26 of each word
    assert found[0] == pytest.approx(-math.log(-math.log((bits + 0.5) / 2**52)), rel=1e-12)


@given(words64, words64, words32, st.lists(st.integers(0, 300_000), min_size=1, unique=True))
@settings(deadline=None)
def test_a_number_does_not_depend_on_which_other_ids_are_asked_for(seed, series, step, ids):
    together = gumbel(seed, series, step, np.array(ids))
    backwards = gumbel(seed, series, step, np.array(ids[::-1]))
    alone = [gumbel(seed, series, step, np.array([token]))[0] for token in ids]
    assert together.tolist() == backwards[::-1].tolist() == alone


@given(
    words64,
    words64,
    st.integers(0, 300) | words32,
    st.integers(1, philox.SMALL_VOCABULARY + 5),
    st.data(),
)
@settings(deadline=None)
def test_a_known_vocabulary_gives_the_same_bits(seed, series, step, vocab_size, data):
    """The noise of many steps is computed at once and kept, but only for a small vocabulary."""
    ids = np.array(data.draw(st.lists(st.integers(0, vocab_size - 1), max_size=20)), dtype=np.int64)
    for near in (step, step + 1, max(step - 1, 0)):  # within one table and across its end
        expected = gumbel(seed, series, near, ids)
        assert gumbel(seed, series, near, ids, vocab_size).tobytes() == expected.tobytes()


def test_tables_of_noise_are_not_mixed_up():
    """There are more texts, in turn, than kept tables, and more steps than one table has."""
    ids = np.arange(1000)
    steps = philox.TABLE_SIZE // len(ids)
    for step in (0, steps - 1, steps, 3 * steps + 1):
        for series in range(40):
            expected = gumbel(5, series, step, ids)
            np.testing.assert_array_equal(gumbel(5, series, step, ids, len(ids)), expected)


def test_no_ids_give_no_numbers():
    assert gumbel(1, 2, 3, np.array([], dtype=np.int64)).shape == (0,)


@given(words64, words64, words32, st.integers(0, 63))
@settings(deadline=None)
def test_every_bit_of_seed_stream_and_step_matters(seed, series, step, bit):
    noise = gumbel(seed, series, step, IDS)
    others = [
        gumbel(seed ^ 1 << bit, series, step, IDS),
        gumbel(seed, series ^ 1 << bit, step, IDS),
        gumbel(seed, series, step ^ 1 << bit % 32, IDS),
    ]
    # With 53 random bits, the chance of two equal numbers among 50 pairs is 1e-14.
    assert all((other != noise).all() for other in others)


@given(st.integers(1, 2**32 - 1))
@settings(deadline=None)
def test_seed_stream_and_step_do_not_stand_in_for_each_other(word):
    noise = [
        gumbel(word, 0, 0, IDS),
        gumbel(word << 32, 0, 0, IDS),
        gumbel(0, word, 0, IDS),
        gumbel(0, word << 32, 0, IDS),
        gumbel(0, 0, word, IDS),
    ]
    assert len({tuple(numbers) for numbers in noise}) == len(noise)


def test_different_ids_get_different_noise():
    assert len(set(gumbel(3, 1, 4, np.arange(10_000)))) == 10_000


@pytest.mark.parametrize("word", [0, ALL_ONES])
def test_the_outermost_random_words_give_finite_noise(monkeypatch, word):
    def extreme(counter, key):
        return np.full(counter.shape, word, dtype=np.uint64)

    monkeypatch.setattr(philox, "philox4x32", extreme)
    assert np.isfinite(gumbel(0, 0, 0, IDS)).all()


def many_draws():
    """Return 200,000 numbers: 200 ids in each of 10 steps of 100 streams."""
    ids = np.arange(200)
    return np.concatenate(
        [gumbel(42, series, step, ids) for series in range(100) for step in range(10)]
    )


def test_noise_has_the_mean_and_variance_of_a_gumbel_distribution():
    # The mean is Euler's gamma, the variance s2 = pi^2 / 6, the kurtosis 5.4. The mean of N draws
    # has a standard error of sqrt(s2 / N), their variance has s2 * sqrt((5.4 - 1) / N). A correct
    # generator stays within five standard errors with a chance of 1 - 6e-7.
    draws = many_draws()
    variance = math.pi**2 / 6
    assert abs(draws.mean() - 0.5772156649) < 5 * math.sqrt(variance / len(draws))
    assert abs(draws.var() - variance) < 5 * variance * math.sqrt(4.4 / len(draws))


def test_noise_follows_the_gumbel_distribution_everywhere():
    # Kolmogorov-Smirnov: the largest distance of N draws exceeds sqrt(-ln(1e-6 / 2) / 2 / N) with
    # a chance of about 1e-6 (Massart's inequality).
    uniform = np.sort(np.exp(-np.exp(-many_draws())))
    count = len(uniform)
    above = np.arange(1, count + 1) / count - uniform
    below = uniform - np.arange(count) / count
    bound = math.sqrt(-math.log(1e-6 / 2) / 2 / count)
    assert max(above.max(), below.max()) < bound
