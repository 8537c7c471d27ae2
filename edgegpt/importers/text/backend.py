"""Small helpers around the `tokenizers` library."""

import re
from collections.abc import Iterable

from tokenizers import Tokenizer

from edgegpt.runtime.text.tokenizer import library_failed

from ...errors import CheckpointError

__all__ = ["backend_of", "quote", "regex_of_any"]

SHOWN = 40  # characters of a token in a message


def backend_of(text: str, where: str) -> Tokenizer:
    """Read the JSON text of a tokenizer; every failure is a `CheckpointError`."""
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        if not library_failed(error):
            raise
        raise CheckpointError(f"{where} is no tokenizer that can be read: {error}") from error


def quote(text: str) -> str:
    """Return a token for a message: printable, and cut if it is long."""
    return ascii(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


def regex_of_any(texts: Iterable[str]) -> str:
    """Return a pattern that matches any of the texts, the longest first."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
