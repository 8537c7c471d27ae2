"""Decode ids to text one by one, up to the first stop string."""

from collections.abc import Sequence

from .tokenizer import Tokenizer

__all__ = ["Detokenizer"]

REPLACEMENT = "\ufffd"  # what bytes decode to that are not (yet) a whole character


class Detokenizer:
    """Turns ids into text as they arrive, and stops at a stop string.

    It holds back an incomplete character, and text that may be the beginning of a stop string. The
    pieces of `push` and `finish`, joined, are the text up to the stop string, without a character
    that the last token leaves incomplete.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.ids: list[int] = []
        self.context = self.done = 0  # new ids are decoded together with ids[context:done]
        self.shown = ""  # the part of the text of ids[context:] that has been returned
        self.pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain; it may be empty."""
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
        """Return the text that was held back for a stop string that did not come."""
        piece, self.pending = self.pending, ""
        return piece

    def _decoded(self, token: int) -> str:
        """Return the text that `token` completes, which may depend on the tokens before it."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids[self.context :])
        own = self.tokenizer.backend.id_to_token(token) or ""
        if text.endswith(REPLACEMENT) and REPLACEMENT not in own:  # ends inside a character
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
