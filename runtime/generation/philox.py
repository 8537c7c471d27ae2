"""Philox4x32-10: random numbers that are a pure function of a key and a counter.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the round and
key constants are those of its Random123 library. The generator has no state, so the order of draws
does not matter: the number for (seed, series, step, token id) is the same on every engine and in
every row of a batch.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["gumbel", "philox4x32"]

MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
KEY_STEP_0 = 0x9E3779B9  # golden ratio
KEY_STEP_1 = 0xBB67AE85  # sqrt(3) - 1
ROUNDS = 10
MASK = 0xFFFFFFFF
LOW_WORD = np.uint64(MASK)
WORD_BITS = np.uint64(32)
SMALL_VOCABULARY = 1024
TABLE_SIZE = 4096  # numbers that are computed at once
BLOCK = 8192  # ids whose noise is computed at once: the numbers stay in the processor's cache
UNUSED_BITS = np.uint64(6)  # of a 32-bit word: the rest of two words makes 52 bits


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Return four random 32-bit words for each counter.

    Both products of a round are one array operation, because for a few dozen counters the number
    of operations decides the time.

    Args:
        counter: uint64 [4, N], each number a 32-bit word.
        key: two 32-bit words.

    Returns:
        uint64 [4, N], each number a 32-bit word.
    """
    even, odd = counter[0::2].copy(), counter[1::2]  # (2, N): words 0 and 2, words 1 and 3
    high, swapped = np.empty_like(even), np.empty_like(even)
    low, kept = np.empty_like(even), np.empty_like(even)
    high_swapped = high[::-1]
    for round_key in _round_keys(key):  # results go to the third argument: nothing is allocated
        np.multiply(even, MULTIPLIERS, even)
        np.right_shift(even, WORD_BITS, high)
        np.bitwise_and(even, LOW_WORD, low)
        np.bitwise_xor(high_swapped, odd, swapped)
        np.bitwise_xor(swapped, round_key, even)
        odd, low, kept = low[::-1], kept, low
    words = np.empty_like(counter)
    words[0::2], words[1::2] = even, odd
    return words


@lru_cache(maxsize=64)
def _round_keys(key: tuple[int, int]) -> NDArray[np.uint64]:
    """Return the keys of all rounds, uint64 [ROUNDS, 2, 1]."""
    keys = [
        [[(key[0] + n * KEY_STEP_0) & MASK], [(key[1] + n * KEY_STEP_1) & MASK]]
        for n in range(ROUNDS)
    ]
    return np.array(keys, dtype=np.uint64)


def gumbel(
    seed: int, series: int, step: int, ids: NDArray[np.int64], vocab_size: int | None = None
) -> NDArray[np.float64]:
    """Return standard Gumbel noise, float64 [N], one number for each token id.

    Args:
        seed: 64-bit key.
        series: 64-bit number of the text that is being generated.
        step: 32-bit number of the token within that text.
        ids: int64 [N], token ids whose noise is wanted.
        vocab_size: number of ids in the vocabulary. If it is small, the noise of several steps is
            computed at once. The numbers are the same.
    """
    if vocab_size is None or vocab_size > SMALL_VOCABULARY:
        noise = np.empty(len(ids))
        for start in range(0, len(ids), BLOCK):
            part = ids[start : start + BLOCK]
            noise[start : start + BLOCK] = _gumbel(seed, series, np.full(len(part), step), part)
        return noise
    steps = TABLE_SIZE // vocab_size
    row: NDArray[np.float64] = _table(seed, series, step // steps, vocab_size)[step % steps]
    return row[ids]


@lru_cache(maxsize=512)  # texts that are written side by side; 32 kB each
def _table(seed: int, series: int, part: int, vocab_size: int) -> NDArray[np.float64]:
    """Return the noise of all ids, [steps, vocab_size], for the steps of `part`, counted from 0."""
    steps = TABLE_SIZE // vocab_size
    step = np.repeat(np.arange(part * steps, (part + 1) * steps) & MASK, vocab_size)
    noise = _gumbel(seed, series, step, np.tile(np.arange(vocab_size), steps))
    return noise.reshape(steps, vocab_size)


def _gumbel(
    seed: int, series: int, step: NDArray[np.int64], ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the noise [N] for N pairs of a step and an id."""
    counter = np.empty((4, len(ids)), dtype=np.uint64)
    counter[0] = ids
    counter[1] = step & MASK
    counter[2] = series & MASK
    counter[3] = (series >> 32) & MASK
    words = philox4x32(counter, (seed & MASK, (seed >> 32) & MASK))
    # 52 random bits, centred in their interval, are never 0 or 1; 53 bits could round to 1.
    top = words[:2] >> UNUSED_BITS
    uniform = (top[0] * 2.0**26 + top[1] + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
