"""A long past from the keys and values of a few tokens, for positions far into the block.

The proof reaches a far position without feeding the tokens before it. The golden vectors hold what
the first tokens of a text leave in the cache; every slot before the far position gets one of these
tokens, the first slot the first one, and the others one that a seeded generator draws. PyTorch at
export and the device in `verify` fill the same numbers.

Keys and values of a trained model are used, not random numbers, because random ones take the model
where it was never trained: on SmolLM2-135M, float32 was then 1e-4 of the largest logit away from
float64, ten times the tolerance of the proof. Over this past it is 1.3e-6 away, as on any text, and
one changed slot still moves the logits by 5e-4 or more.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..generation.philox import philox4x32

__all__ = ["far_past"]

KEY = (0x70617374, 0)  # "past" in ASCII
WORDS = 4  # of a counter


def far_past(recorded: Sequence[NDArray[np.float16]], slots: int) -> Iterator[NDArray[np.float32]]:
    """Yield float32 [K, slots, D] for each cache: of each layer keys, then values.

    Args:
        recorded: what M tokens left in each of these caches, float16 [K, M, D].
        slots: how many slots to fill; the first ones are the same for any number.
    """
    drawn = _tokens(recorded[0].shape[1], slots)
    for cache in recorded:
        yield np.ascontiguousarray(cache[:, drawn].astype(np.float32))


def _tokens(count: int, slots: int) -> NDArray[np.int64]:
    """Return which of `count` tokens each slot gets, [slots]; the first token fills slot 0 only.

    Many models put most of their attention on the first token, which must therefore stay rare.
    """
    counter = np.zeros((WORDS, -(-slots // WORDS)), dtype=np.uint64)
    counter[0] = np.arange(counter.shape[1])
    words = philox4x32(counter, KEY).T.reshape(-1)[:slots].astype(np.int64)
    drawn: NDArray[np.int64] = 1 + words % max(1, count - 1)
    drawn[:1] = 0
    return np.minimum(drawn, count - 1)
