"""Text to ids and back, with nothing lost in silence.

The `tokenizers` library drops a character that a model's vocabulary lacks, or raises without
naming it; here such a character is an error that says which one and where.
"""

from tokenizers import Tokenizer as Backend

from .errors import BundleError, InvalidInputError

__all__ = ["TextStream", "Tokenizer"]

REPLACEMENT = "\ufffd"  # how bytes that are not (yet) a character are decoded


class Tokenizer:
    """A tokenizer in Hugging Face's `tokenizers` JSON format."""

    def __init__(self, text: str | bytes) -> None:
        """Read the JSON text of a tokenizer.json."""
        try:
            text = text.decode("utf-8") if isinstance(text, bytes) else text
            self.backend: Backend = Backend.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error
        unknown = getattr(self.backend.model, "unk_token", None)
        self.unknown_id = None if unknown is None else self.backend.token_to_id(unknown)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; an unknown character raises `InvalidInputError`."""
        try:
            ids: list[int] | None = self.backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # a WordLevel model without an unknown token
            reason: Exception | None = error
            ids = None
        else:
            reason = None
        if ids is not None and self.unknown_id not in ids and self.decode(ids) == text:
            return ids
        # Something got lost. A tokenizer may change text on purpose (case, Unicode forms); a
        # character without any id of its own is what must not pass.
        position = self._first_unknown(text)
        if position is not None:
            raise _unknown(text, position) from reason
        if ids is None:
            raise InvalidInputError(f"the text cannot be tokenized: {reason}") from reason
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
                    ids = self.backend.encode(character, add_special_tokens=False).ids
                    known[character] = bool(ids) and self.unknown_id not in ids
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
        self.ids: list[int] = []
        self.context = self.done = 0  # ids[context:done] say how the ones after them read
        self.shown = ""  # the part of the text of ids[context:] that was given out
        self.pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain, perhaps none."""
        self.pending += self._decoded(token)
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

    def _decoded(self, token: int) -> str:
        """Return the text that `token` completes; how it reads may depend on those before it."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids[self.context :])
        own = self.tokenizer.backend.id_to_token(token) or ""
        if text.endswith(REPLACEMENT) and REPLACEMENT not in own:  # ends within a character
            piece = text.rstrip(REPLACEMENT)[len(self.shown) :]
            self.shown += piece
            return piece
        piece = text[len(self.shown) :]
        self.context, self.done = self.done, len(self.ids)
        self.shown = self.tokenizer.decode(self.ids[self.context : self.done])
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
