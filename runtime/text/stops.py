"""Ids to text as they come, up to the first stop string."""

from collections.abc import Sequence

from .tokenizer import Tokenizer

__all__ = ["Detokenizer"]

REPLACEMENT = "\ufffd"  # how bytes that are not (yet) a character are decoded


class Detokenizer:
    """Turns ids into text as they come, and watches for stop strings.

    Text that may still turn into half a character or the beginning of a stop string is held back.
    The pieces of `push` and `finish`, joined, are the text up to the stop string; a character that
    the last token leaves incomplete is not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
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
