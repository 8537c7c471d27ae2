"""One call of `generate` or `stream`: how it runs."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from ..engines.base import Engine, Sources
from ..errors import InvalidInputError
from ..processes import Origin
from ..text.tokenizer import Tokenizer
from .kept import KeptRow
from .loop import Rules, generate_tokens
from .rows import FinishReason, Text
from .speculation import Pace
from .writing import Result, Writing

__all__ = ["Run", "Stream"]


class Run:
    """The texts of one call, as their readers see them."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        texts: list[Text],
        rules: Rules,
        pace: Pace,
        sources: Callable[[], Sources] | None = None,
        kept: KeptRow | None = None,
    ) -> None:
        """Note what to run.

        `sources` encodes the sources of the texts, if they have any. A single text may have a row
        that is `kept` from earlier ones.
        """
        self.kept = kept
        self.sources = sources
        self.engine, self.texts, self.rules, self.pace = engine, texts, rules, pace
        self.writings = [Writing(text, rules, tokenizer) for text in texts]
        self.ended = False

    def pieces(self) -> Generator[str, None, None]:
        """Generate all tokens; yield the new pieces of all texts as they come."""
        begin = time.perf_counter()
        for number, token in self._tokens():
            piece = self.writings[number].take(token, time.perf_counter() - begin)
            if piece:
                yield piece
        for writing in self.writings:
            piece = writing.finish()
            if piece:
                yield piece
        self.ended = True

    def results(self) -> list[Result]:
        """Return the results, those of texts that have not ended, too."""
        otherwise: FinishReason = "length" if self.ended else "closed"
        return [writing.result(otherwise) for writing in self.writings]

    def _tokens(self) -> Iterator[tuple[int, int]]:
        if self.rules.max_new_tokens == 0:
            return iter(())
        if self.kept is not None:
            return self.kept.tokens(self.texts[0], self.rules)
        sources = None if self.sources is None else self.sources()
        return generate_tokens(self.engine, self.texts, self.rules, self.pace, sources)


class Stream(Iterator[str]):
    """An iterator over pieces of text, for `async for`, too; at its end, it has a result.

    With `async for`, each step is computed in a thread, so that other tasks go on. A task that is
    cancelled while it waits for a piece closes the stream, as soon as the step has ended.

    It is for one thread at a time: another one that meanwhile asks for a piece, or closes it, gets
    an `InvalidInputError`.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._pieces = run, run.pieces()
        self._closed, self._origin = False, Origin()
        # Ctrl-C may strike between taking the lock and the block that gives it back. Then the same
        # thread still has it, and may go on to close the stream.
        self._lock = threading.RLock()
        self._left = False  # by a task that was cancelled; its step still computes

    def __next__(self) -> str:
        self._origin.check()
        with self._alone():
            return next(self._pieces)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> str:
        step = asyncio.create_task(asyncio.to_thread(next, self, None))
        try:
            piece = await asyncio.shield(step)
        except asyncio.CancelledError:
            # A step cannot be broken off. AnyIO's scopes cancel again and again, so that waiting
            # for it may end early, but not what is done then.
            self._left = True
            step.add_done_callback(self._leave)
            await asyncio.wait({step})
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _leave(self, step: "asyncio.Task[str | None]") -> None:
        """Close the stream after the step of a task that was cancelled; its error is of no use."""
        if not step.cancelled():  # as the end of the event loop does, while the thread goes on
            step.exception()
            self._left = False
            self.close()

    def close(self) -> None:
        """Stop the generation and free its memory; the result is what there is so far."""
        if self._left:  # closes by itself
            return
        with self._alone():
            self._pieces.close()
        self._closed = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second thread while another one is within."""
        if not self._lock.acquire(blocking=False):
            raise InvalidInputError(
                "a stream is for one thread at a time, and another one waits for its next piece: "
                "give each thread a stream of its own"
            )
        try:
            yield
        finally:
            self._lock.release()

    @property
    def result(self) -> Result:
        """The result; available once the pieces have ended, or the stream was closed."""
        if not (self._run.ended or self._closed):
            raise InvalidInputError("the stream has no result before its last piece")
        return self._run.results()[0]
