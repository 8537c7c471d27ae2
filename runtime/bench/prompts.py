"""The prompts of the bench, of an exact number of tokens.

A bundle with a tokenizer has a sample of text in its golden file. Prompts are pieces of this text,
and tokenizing them is part of the measured time. Without a tokenizer, or with one that knows only
whole words and therefore refuses most pieces, prompts are random ids. Of an encoder-decoder, these
are the sources.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from ..bundle.bundle import GOLDEN_NAME, Bundle
from ..errors import BundleError, InvalidInputError
from ..generation.begin import Begin
from ..text.tokenizer import Tokenizer

__all__ = ["Prompts", "RandomPrompts", "TextPrompts", "prompts_for"]

SEED = 4
PIECES = 16  # that are tried
SAMPLES = ("source_tokenizer.text", "tokenizer.text")  # the first one that is there


class Prompts(Protocol):
    """A source of prompts; `kind` says in words what they are."""

    kind: str

    def rows(self, batch: int, depth: int) -> "list[Row]":
        """Return `batch` different prompts of `depth` tokens, the same ones in every call."""


@dataclass(frozen=True)
class Row:
    """One prompt: its ids, and, if there is one, the text whose first ids they are."""

    ids: list[int]
    text: str | None = None


class RandomPrompts:
    """Ids drawn from the whole vocabulary."""

    kind = "random ids"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def rows(self, batch: int, depth: int) -> list[Row]:
        """Return `batch` different prompts of `depth` tokens, the same ones in every call."""
        ids = np.random.default_rng(SEED).integers(self.vocab_size, size=(batch, depth))
        return [Row(row) for row in ids.tolist()]


class TextPrompts:
    """Pieces of a text, each beginning at another character; a short text is repeated."""

    kind = "text of the golden file"

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.tokenizer, self.text = tokenizer, text

    def rows(self, batch: int, depth: int) -> list[Row]:
        """Return `batch` different prompts of `depth` tokens, the same ones in every call."""
        return [self._row(row * len(self.text) // batch, depth) for row in range(batch)]

    def _row(self, start: int, depth: int) -> Row:
        """Take characters from `start`, and lengthen the piece until it has enough ids."""
        turned = self.text[start:] + self.text[:start]
        length = depth
        while True:
            text = (turned * -(-length // len(turned)))[:length]
            ids = self.tokenizer.encode(text)
            if len(ids) >= depth:
                return Row(ids[:depth], text)
            length += max(length // 4, 1)


def prompts_for(bundle: Bundle, begin: Begin) -> Prompts:
    """Return the prompts that fit a bundle, or its sources."""
    reader = begin.sources or begin.prompts
    tokenizer, vocab_size = reader.tokenizer, reader.vocab_size
    text = _sample(bundle) if tokenizer is not None else ""
    if tokenizer is None or not text:
        return RandomPrompts(vocab_size)
    prompts = TextPrompts(tokenizer, text)
    try:
        prompts.rows(PIECES, 1)
    except InvalidInputError:
        return RandomPrompts(vocab_size)
    return prompts


def _sample(bundle: Bundle) -> str:
    """Return the golden file's sample of text; the large arrays beside it are not read."""
    path = bundle.file(GOLDEN_NAME)
    try:
        found = _samples(path)
        text = next((found[name] for name in SAMPLES if name in found), None)
        return "" if text is None else bytes(text.tobytes()).decode()
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error


def _samples(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            here = [name for name in SAMPLES if name in set(file.keys())]
            return {name: file.get_tensor(name) for name in here}
    except OSError:  # the file system cannot map files into memory
        return load(path.read_bytes())
