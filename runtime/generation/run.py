"""One call of `generate` or `stream`: how it runs, and what it returns."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from ..engines.base import Engine, Sources
from ..errors import InvalidInputError
from ..processes import Origin
from ..text.stops import Detokenizer
from ..text.tokenizer import Tokenizer
from .loop import Rules, generate_tokens
from .rows import FinishReason, Text
from .speculation import Pace

__all__ = ["Result", "Run", "Stream", "Timings"]


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one text. The texts of a batch are made side by side.

    Attributes:
        first_token_s: from the call to its first token, the prompt included.
        total_s: from the call to its last token.
        new_tokens: its new tokens.
    """

    first_token_s: float
    total_s: float
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens of this text per second, from the call on."""
        return self.new_tokens / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """The text generated for one prompt, without the prompt itself.

    Attributes:
        text: the new text up to a stop string or an end id; None if the bundle has no tokenizer.
        token_ids: all new ids, those of a stop string and an end id included.
        finish_reason: "length" (max_new_tokens), "stop" (a stop string), "eos" (an end id),
            "context" (the text outgrew the context and overflow is "stop"), "closed" (the stream
            was closed before the text ended).
        timings: of this text.
        seed: the seed used, so that the text can be generated again.
        first_near_tie: the first new token, counted from 0, whose lead over the runner-up was so
            small that another engine may choose differently from there on; None if there was none.
            After a beam search, 0 or None: a choice that was so close may change the whole text.
        score: of a beam search: the sum of the log-probabilities of the new ids, divided by their
            number to the power of the length penalty; else None.
        hypotheses: of a beam search: the best texts, the best first, which is this one; else none.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    first_near_tie: int | None
    score: float | None = None
    hypotheses: tuple["Result", ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return asdict(self)


class Run:
    """The texts of one call, the detokenizers that watch them, and the clock."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        texts: list[Text],
        rules: Rules,
        pace: Pace,
        sources: Callable[[], Sources] | None = None,
    ) -> None:
        """Note what to run; `sources` encodes the sources of the texts, if they have any."""
        self.sources = sources
        self.engine, self.texts, self.rules, self.pace = engine, texts, rules, pace
        self.detokenizers: list[Detokenizer] = []
        if tokenizer is not None:
            self.detokenizers = [Detokenizer(tokenizer, rules.stop, text.ids) for text in texts]
        self.written = [""] * len(texts)
        self.clocks = [_Clock() for _ in texts]
        self.ended = False

    def pieces(self) -> Generator[str, None, None]:
        """Generate all tokens; yield the new pieces of all texts as they come."""
        begin = time.perf_counter()
        for number, token in self._tokens():
            self.clocks[number].note(time.perf_counter() - begin)
            if self.detokenizers and token not in self.rules.end_ids:
                yield from self._write(number, self.detokenizers[number].push(token))
                if self.detokenizers[number].stopped:
                    self.texts[number].finish_reason = "stop"
        for number, detokenizer in enumerate(self.detokenizers):
            yield from self._write(number, detokenizer.finish())
        self.ended = True

    def results(self) -> list[Result]:
        """Return the results, those of texts that have not ended, too."""
        otherwise: FinishReason = "length" if self.ended else "closed"
        return [
            Result(
                text=written if self.detokenizers else None,
                token_ids=text.new_ids,
                finish_reason=text.finish_reason or otherwise,
                timings=Timings(clock.first, clock.last, len(text.new_ids)),
                seed=text.seed,
                first_near_tie=text.first_near_tie,
            )
            for text, written, clock in zip(self.texts, self.written, self.clocks, strict=True)
        ]

    def _tokens(self) -> Iterator[tuple[int, int]]:
        if self.rules.max_new_tokens == 0:
            return iter(())
        sources = None if self.sources is None else self.sources()
        return generate_tokens(self.engine, self.texts, self.rules, self.pace, sources)

    def _write(self, number: int, piece: str) -> Iterator[str]:
        if piece:
            self.written[number] += piece
            yield piece


@dataclass
class _Clock:
    """Seconds from the call to the first and to the last token of a text."""

    first: float = 0.0
    last: float = 0.0

    def note(self, now: float) -> None:
        self.first, self.last = self.first or now, now


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
