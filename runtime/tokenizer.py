"""Text to ids and back, with nothing lost in silence.

The `tokenizers` library drops a character that a model's vocabulary lacks, or raises without
naming it; here such a character is an error that says which one and where.
"""

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from .errors import BundleError, InvalidInputError

__all__ = ["TextStream", "Tokenizer"]


class Tokenizer:
    """A tokenizer in Hugging Face's `tokenizers` JSON format."""

    def __init__(self, json_text: str) -> None:
        try:
            self.backend: Backend = Backend.from_str(json_text)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; an unknown character raises `InvalidInputError`."""
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # a WordLevel model without an unknown token
            position = self._first_unknown(text)
            if position is None:
                raise InvalidInputError(f"the text cannot be tokenized: {error}") from error
            raise _unknown(text, position) from error
        ids: list[int] = encoding.ids
        covered = 0
        for start, end in encoding.offsets:
            if start > covered:
                break
            covered = max(covered, end)
        if covered < len(text) and self.decode(ids) != text:
            raise _unknown(text, covered)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 show as U+FFFD."""
        text: str = self.backend.decode(ids, skip_special_tokens=False)
        return text

    def _first_unknown(self, text: str) -> int | None:
        """Return the index of the first character that has no id by itself."""
        known: dict[str, bool] = {}
        for index, character in enumerate(text):
            if character not in known:
                try:
                    known[character] = bool(self.backend.encode(character).ids)
                except Exception:  # as above
                    known[character] = False
            if not known[character]:
                return index
        return None


class TextStream:
    """Turns ids into text as they come, and watches for stop strings.

    Text that may still turn into half a character or the beginning of a stop string is held back.
    The pieces of `push` and `finish`, joined, are the text up to the stop string; a character that
    the last token leaves incomplete is not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.stream = DecodeStream(skip_special_tokens=False)
        self.pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain, perhaps none."""
        self.pending += self.stream.step(self.tokenizer.backend, token) or ""
        found = [place for place in (self.pending.find(text) for text in self.stop) if place >= 0]
        if found:
            self.stopped = True
            piece, self.pending = self.pending[: min(found)], ""
            return piece
        keep = self._possible_stop()
        piece, self.pending = (
            self.pending[: len(self.pending) - keep],
            self.pending[-keep:] * (keep > 0),
        )
        return piece

    def finish(self) -> str:
        """Return what was held back for a stop string that did not come."""
        piece, self.pending = self.pending, ""
        return piece

    def _possible_stop(self) -> int:
        """Return how many characters at the end could be the beginning of a stop string."""
        for length in range(min(len(self.pending), max(map(len, self.stop), default=0)), 0, -1):
            if any(text.startswith(self.pending[-length:]) for text in self.stop):
                return length
        return 0


def _unknown(text: str, position: int) -> InvalidInputError:
    character = text[position]
    return InvalidInputError(
        f"the character {character!r} (U+{ord(character):04X}) at position {position} of the text "
        f"is not in the model's vocabulary"
    )
