"""A character-level tokenizer, in the `tokenizers` library's own format.

It is a WordLevel model over single characters, without an unknown token. A character outside the
vocabulary is therefore an error; a BPE model would silently drop it.
"""

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from ..errors import DataError

__all__ = ["build_char_tokenizer", "encode_corpus"]


def build_char_tokenizer(text: str) -> Tokenizer:
    """Return a tokenizer whose ids number the distinct characters of `text` by code point."""
    vocabulary = {character: index for index, character in enumerate(sorted(set(text)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def encode_corpus(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """Encode `text` with a character tokenizer, by table: one id per character, int32 [len(text)].

    The result equals `tokenizer.encode(text).ids`, but is computed a hundred times faster.
    """
    vocabulary = tokenizer.get_vocab()
    characters = np.array([ord(character) for character in vocabulary], dtype=np.uint32)
    ids = np.array(list(vocabulary.values()), dtype=np.int32)
    order = characters.argsort()
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    place = np.searchsorted(characters[order], codes).clip(max=len(order) - 1)
    known = characters[order][place] == codes
    if not known.all():
        index = int((~known).argmax())
        raise DataError(f"the character {text[index]!r} at {index} is not in the vocabulary")
    encoded: NDArray[np.int32] = ids[order][place]
    return encoded
