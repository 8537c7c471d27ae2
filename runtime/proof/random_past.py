"""Random keys and values, the same on every machine: a past for positions far into the block.

The proof reaches a far position without the tokens before it: the cache is filled with these
numbers, in PyTorch at export and on the device when it is verified. Each number is one random byte,
(byte - 128) / 64. So it is exact in float32, float16 and bfloat16, and no rounding of a machine's
logarithm or cosine is in it. The standard deviation is 1.15, about that of the keys and values of a
trained model: attention is then spread over many slots, and each of them moves the result.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..generation.philox import philox4x32

__all__ = ["random_past"]

KEY = (0x70617374, 0)  # "past" in ASCII
BYTES = 16  # of the four words of a counter


def random_past(caches: int, heads: int, slots: int, width: int) -> Iterator[NDArray[np.float32]]:
    """Yield float32 [heads, slots, width] for each cache: of each layer keys, then values.

    The first slots are the same for any number of slots.
    """
    size = slots * heads * width
    for cache in range(caches):
        counter = np.zeros((4, -(-size // BYTES)), dtype=np.uint64)
        counter[0], counter[1] = np.arange(counter.shape[1]), cache
        words = philox4x32(counter, KEY).T.astype("<u4")  # (counters, 4)
        numbers = np.frombuffer(words.tobytes(), dtype=np.uint8)[:size].astype(np.float32)
        past = ((numbers - 128) / 64).reshape(slots, heads, width)
        yield np.ascontiguousarray(past.transpose(1, 0, 2))
