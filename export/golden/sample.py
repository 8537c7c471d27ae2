"""A sample of what a tokenizer does, which every device must repeat."""

from collections.abc import Sequence

import numpy as np

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.golden import TokenizerSample
from edgegpt.runtime.text.tokenizer import Tokenizer

__all__ = ["sample"]

LONGEST_SAMPLE = 16384  # ids of the text that the tokenizer is checked with


def sample(tokenizer: Tokenizer, text: Sequence[int]) -> TokenizerSample:
    """Return the text of the first ids, its encoding, and the decoding of the whole vocabulary.

    A model that writes the text itself may write what its tokenizer cannot read, such as the
    unknown token. Then as many of the readable ids as possible are kept.
    """
    ids = list(text[:LONGEST_SAMPLE])
    if not _is_readable(tokenizer, ids):
        ids = [number for number in ids if _is_readable(tokenizer, [number])]
    while not _is_readable(tokenizer, ids):  # alone each can be read, but not side by side
        ids = ids[: len(ids) // 2]
    written = tokenizer.decode(ids)
    vocabulary = tokenizer.decode(list(range(tokenizer.vocab_size)))
    return TokenizerSample(written, np.array(tokenizer.encode(written), dtype=np.int64), vocabulary)


def _is_readable(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Return whether the text of some ids can be encoded."""
    try:
        tokenizer.encode(tokenizer.decode(ids))
    except InvalidInputError:
        return False
    return tokenizer.unknown_id not in ids
