"""Philox4x32-10: random numbers that are a pure function of a key and a counter.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the round and
key constants are those of its Random123 library. No state means no order of draws to keep: the
number that belongs to (seed, stream, step, token id) is the same on every engine, in every row of
a batch, and whatever was drawn before.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["gumbel", "philox4x32"]

MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
KEY_STEP_0 = 0x9E3779B9  # golden ratio
KEY_STEP_1 = 0xBB67AE85  # sqrt(3) - 1
ROUNDS = 10
MASK = 0xFFFFFFFF
LOW_WORD = np.uint64(MASK)
WORD_BITS = np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Return four random 32-bit words for each counter.

    Args:
        counter: uint64 [4, N], each number a 32-bit word.
        key: two 32-bit words.

    Returns:
        uint64 [4, N], each number a 32-bit word.
    """
    c0, c1, c2, c3 = counter
    for round_number in range(ROUNDS):
        k0 = np.uint64((key[0] + round_number * KEY_STEP_0) & MASK)
        k1 = np.uint64((key[1] + round_number * KEY_STEP_1) & MASK)
        product_0, product_1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> WORD_BITS) ^ c1 ^ k0,
            product_1 & LOW_WORD,
            (product_0 >> WORD_BITS) ^ c3 ^ k1,
            product_0 & LOW_WORD,
        )
    return np.stack([c0, c1, c2, c3])


def gumbel(seed: int, stream: int, step: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise, float64 [N], one number for each token id.

    Args:
        seed: 64-bit key.
        stream: 64-bit number of the text that is being generated.
        step: 32-bit number of the token within that text.
        ids: int64 [N], token ids whose noise is wanted.
    """
    counter = np.empty((4, len(ids)), dtype=np.uint64)
    counter[0] = ids
    counter[1] = step & MASK
    counter[2] = stream & MASK
    counter[3] = (stream >> 32) & MASK
    words = philox4x32(counter, (seed & MASK, (seed >> 32) & MASK))
    # 52 random bits, centred in their interval: never 0 and, as 53 would round to, never 1.
    bits = (words[0] >> np.uint64(6)) * np.uint64(1 << 26) + (words[1] >> np.uint64(6))
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
