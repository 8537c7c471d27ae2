"""Small helpers around the `tokenizers` library."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

from edgegpt.runtime.text.tokenizer import library_failed

from ...errors import CheckpointError

__all__ = ["backend_of", "bpe", "listed", "quote", "regex_of_any"]

SHOWN = 40  # characters of a token in a message
LISTED = 5  # tokens in a message
LARGEST_ID = 2**24 - 1  # the library looks at every id up to the largest


def backend_of(text: str, where: str) -> Tokenizer:
    """Read the JSON text of a tokenizer; every failure is a `CheckpointError`."""
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        if not library_failed(error):
            raise
        raise CheckpointError(f"{where} is no tokenizer that can be read: {error}") from error


def bpe(
    vocabulary: Mapping[str, int],
    added: Mapping[int, AddedToken],
    merges: list[tuple[str, str]],
    **settings: Any,
) -> models.BPE:
    """Return a BPE model whose vocabulary has the added tokens, too, in place of others' ids.

    The library gives an added token the id that the model has for it.

    Raises:
        CheckpointError: if two tokens have the same id, an id is not a small whole number, or a
            merge names a token that the vocabulary lacks.
    """
    ids = {text: number for text, number in vocabulary.items() if number not in added}
    ids |= {token.content: number for number, token in added.items()}
    if len(set(ids.values())) < len(ids):
        raise CheckpointError("the tokenizer gives two tokens the same id")
    for text, number in ids.items():
        if not 0 <= number <= LARGEST_ID:
            raise CheckpointError(f"the tokenizer gives {quote(text)} the id {number!r:.40}")
    try:
        return models.BPE(ids, merges, **settings)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"the tokenizer's merges do not fit it: {error}") from error


def listed(texts: Sequence[str]) -> str:
    """Return the first few of some tokens for a message."""
    return ", ".join(map(quote, texts[:LISTED])) + (", ..." if len(texts) > LISTED else "")


def quote(text: str) -> str:
    """Return a token for a message: printable, and cut if it is long."""
    return ascii(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


def regex_of_any(texts: Iterable[str]) -> str:
    """Return a pattern that matches any of the texts, the longest first."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
