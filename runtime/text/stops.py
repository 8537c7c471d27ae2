"""Decode ids to text one by one, up to the first stop string."""

from collections.abc import Collection, Sequence
from copy import copy

from .tokenizer import Tokenizer

__all__ = ["Detokenizer"]

REPLACEMENT = "\ufffd"  # what bytes decode to that are not (yet) a whole character

# The three bytes of U+FFFD itself in names of tokens: in GPT-2's alphabet of bytes, and as Llama's.
ITS_BYTES = ("\u00ef\u00bf\u00bd", "<0xEF><0xBF><0xBD>")


class Detokenizer:
    """Turns ids into text as they arrive, and stops at a stop string.

    It holds back an incomplete character, and text that may be the beginning of a stop string. The
    pieces of `push` and `finish`, joined, are the text up to the stop string, without a character
    that the last token leaves incomplete, and without special tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        before: Sequence[int] = (),
        shown: Collection[int] = (),
    ) -> None:
        """Begin after the ids `before`, which decide whether the text begins with a space.

        Special tokens are part of the text if they are among the ids `shown`.

        Many tokenizers leave out the space before the first word of a text. Where the text
        continues another, it is shown; after a special token, which ends a turn, it is not.
        """
        self.tokenizer, self.stop = tokenizer, stop
        self.hidden = hidden = tokenizer.special_ids.difference(shown)
        special = (place for place in range(len(before), 0, -1) if before[place - 1] in hidden)
        self.ids = list(before[next(special, 0) :])
        text = tokenizer.decode(self.ids)
        # The part of the text of ids[context:] that has been returned. A character that `before`
        # leaves incomplete is returned when it is complete.
        self.shown = self._whole(text)
        self.context = 0  # new ids are decoded together with ids[context:done]
        self.done = len(self.ids) if len(self.shown) == len(text) else 0
        self.pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain; it may be empty."""
        if token in self.hidden:
            return ""
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

    def after(self, token: int) -> "Detokenizer":
        """Return one that has taken `token`, too, and has not stopped before; this one stays."""
        other = copy(self)
        other.ids, other.stopped = [*self.ids], False
        other.push(token)
        return other

    def finish(self) -> str:
        """Return the text that was held back for a stop string that did not come."""
        piece, self.pending = self.pending, ""
        return piece

    def _decoded(self, token: int) -> str:
        """Return the text that `token` completes, which may depend on the tokens before it."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids[self.context :])
        whole = self._whole(text)
        piece = whole[len(self.shown) :]
        if len(whole) < len(text):
            self.shown += piece
            return piece
        self.context, self.done = self.done, len(self.ids)
        self.shown = self.tokenizer.decode(self.ids[self.context : self.done])
        return piece

    def _whole(self, text: str) -> str:
        """Return the text of the last ids without a character that it ends inside of."""
        names = [self.tokenizer.backend.id_to_token(token) or "" for token in self.ids[-3:]]
        is_whole = REPLACEMENT in "".join(names[-1:]) or "".join(names).endswith(ITS_BYTES)
        return text if is_whole else text.rstrip(REPLACEMENT)

    def _possible_stop(self) -> int:
        """Return how many characters at the end could be the beginning of a stop string."""
        for length in range(min(len(self.pending), max(map(len, self.stop), default=0)), 0, -1):
            if any(text.startswith(self.pending[-length:]) for text in self.stop):
                return length
        return 0
