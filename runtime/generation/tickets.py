"""A text that a scheduler writes, as the one sees it who asked for it."""

import threading
import time
from collections import deque
from typing import NamedTuple

from ..errors import EdgeGPTError
from ..text.tokenizer import Tokenizer
from .logprobs import TokenLogprob
from .loop import Rules
from .rows import FinishReason, Text
from .shared_rows import Window
from .writing import Result, Writing

__all__ = ["News", "Ticket"]


class News(NamedTuple):
    """A new token, the text that it makes certain, and its log-probability, if that is wanted."""

    token: int | None  # None: the rest of the text, after the last token
    piece: str
    logprob: TokenLogprob | None


class Ticket:
    """A text that a scheduler writes. What is new can be taken at any time, from one thread.

    Attributes:
        submitted: when it was submitted, in seconds of `time.perf_counter`.
        reused: how many tokens of the prompt were there already and were not fed.
        error: what ended it, if it was an error.
    """

    def __init__(self, text: Text, rules: Rules, tokenizer: Tokenizer | None) -> None:
        self.text, self.rules = text, rules
        self.writing = Writing(text, rules, tokenizer)
        self.submitted, self.reused = time.perf_counter(), 0
        self.error: EdgeGPTError | None = None
        self.window: Window | None = None  # of rows that are lost
        self._news: deque[News] = deque()
        self._cancelled, self._ended = threading.Event(), threading.Event()

    def take(self) -> list[News]:
        """Return what is new, in order."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def cancel(self) -> None:
        """Let the text end: its reader has left, or has enough."""
        self._cancelled.set()

    @property
    def ended(self) -> bool:
        """Whether there will be no more news."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end of the text, at most `timeout` seconds; return its result.

        Raises:
            EdgeGPTError: if it ended by an error.
            TimeoutError: if it has not ended by then.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"the text did not end within {timeout:g} s")
        return self.result

    @property
    def result(self) -> Result:
        """What there is of the text."""
        if self.error is not None:
            raise self.error
        return self.writing.result("length")

    @property
    def ending(self) -> str:
        """How it ended, in a word."""
        if self.error is not None:
            return "error"
        return self.text.finish_reason or ("length" if self.ended else "cancelled")

    def reached(self) -> FinishReason | None:
        """Return why it has to end now, of reasons that lie outside of the text."""
        return "cancelled" if self._cancelled.is_set() else self.rules.limits.reached()

    def note(self, token: int) -> None:
        """Note a new token."""
        piece = self.writing.take(token, time.perf_counter() - self.submitted)
        logprob = self.text.logprobs[-1] if self.text.logprobs else None
        self._news.append(News(token, piece, logprob))

    def end(self, error: EdgeGPTError | None = None) -> None:
        """Note the end."""
        rest, self.error = self.writing.finish(), error
        if rest:
            self._news.append(News(None, rest, None))
        self._ended.set()
