"""Many texts on one engine, each as if it were alone: they come, are written side by side, and go.

One thread owns the engine's state. Again and again it drops who left, gives waiting texts rows,
first come first served, feeds one piece of one prompt, and runs one step of all texts that are
being written. A long prompt therefore delays the others by one piece at a time. The thread never
waits for a reader: what is new lies with each ticket until it is taken, and `told` is called once a
turn with the tickets that have news.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engines.base import MANY_ROWS, Engine
from ..errors import EdgeGPTError, EngineError, InvalidInputError
from ..quantity import quantity
from ..text.tokenizer import Tokenizer
from .logprobs import TokenLogprob
from .loop import Rules
from .prefix_store import PrefixStore
from .rows import FinishReason, Text
from .shared_rows import SharedRows
from .writing import Result, Writing

__all__ = ["ROWS", "BusyError", "News", "Scheduler", "Ticket"]

logger = logging.getLogger(__name__)

ROWS, QUEUE = 16, 256
MOST_FAILURES = 2  # turns in a row that the engine may fail

Told = Callable[[Sequence["Ticket"]], None]


class BusyError(EdgeGPTError):
    """Too many texts wait already; later there may be room."""


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


class Scheduler:
    """Texts on the rows of one state, and the thread that writes them.

    Attributes:
        broken: what made the thread end before it was closed; None: it has not.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        context: int,
        *,
        rows: int = ROWS,
        queue: int = QUEUE,
        steady: bool = False,
        store: PrefixStore | None = None,
        told: Told = lambda _: None,
    ) -> None:
        """Reserve the memory of `rows` texts, and start.

        Args:
            engine: of a model without an encoder.
            tokenizer: turns ids into text; None: there are ids only.
            context: how many tokens the model sees at once.
            rows: how many texts are written side by side.
            queue: how many more may wait when all rows are taken.
            steady: see `SharedRows`; there are fewer than `MANY_ROWS` rows then.
            store: prefixes on disk that texts may begin with; the thread owns it from now on.
            told: is called from the thread, once a turn, with tickets that have news or have ended.

        Raises:
            EngineError: if there is no memory for so many rows.
            InvalidInputError: if the model has an encoder.
        """
        if engine.encoder is not None:
            raise InvalidInputError("models with an encoder cannot be served side by side yet")
        self.engine, self.tokenizer, self.context = engine, tokenizer, context
        self.steady, self.store, self.queue, self.told = steady, store, queue, told
        self.rows = min(rows, MANY_ROWS - 1) if steady else rows
        self.broken: EdgeGPTError | None = None
        self._shared = self._new_rows()
        self._waiting: deque[Ticket] = deque()
        self._written: dict[int, Ticket] = {}  # by the id of their text
        self._news: list[Ticket] = []
        self._change = threading.Condition()
        self._open, self._stopping, self._failures = True, False, 0
        self._thread = threading.Thread(target=self._serve, name="edgegpt-scheduler", daemon=True)
        self._thread.start()

    def submit(self, text: Text, rules: Rules) -> Ticket:
        """Have a text written; its prompt fits the context, or may slide.

        Raises:
            BusyError: if too many texts wait.
            InvalidInputError: if the rules ask for a search or for drafts.
            EngineError: if the scheduler was closed, or is broken.
        """
        if rules.beams is not None or rules.speculate:
            name = "speculate" if rules.speculate else "num_beams"
            raise InvalidInputError(f"{name} is not for texts that are written side by side")
        ticket = Ticket(text, rules, self.tokenizer)
        if rules.max_new_tokens == 0:
            ticket.end()
            return ticket
        with self._change:
            if self.broken is not None:
                raise EngineError(f"the engine failed: {self.broken}") from self.broken
            if not self._open:
                raise EngineError("the model is being closed and takes no new texts")
            if len(self._waiting) + len(self._written) >= self.queue + self.rows:
                waiting = quantity(len(self._waiting), "text waits", "texts wait")
                raise BusyError(f"{waiting} already; try again later")
            self._waiting.append(ticket)
            self._change.notify_all()
        return ticket

    @property
    def running(self) -> int:
        """How many texts have a row."""
        return len(self._written)

    @property
    def waiting(self) -> int:
        """How many texts wait for a row."""
        return len(self._waiting)

    @property
    def open(self) -> bool:
        """Whether it takes new texts."""
        return self._open and self.broken is None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self, drain: float = 0.0) -> None:
        """Take no new texts; let the others go on for up to `drain` seconds, then cancel them.

        Returns once the thread has ended.
        """
        with self._change:
            self._open = False
            self._change.notify_all()
        self._thread.join(drain)
        self._stopping = True
        self._thread.join()

    def _serve(self) -> None:
        try:
            while self._has_work():
                try:
                    self._turn()
                    self._failures = 0
                except BaseException as error:  # panics of libraries, too: nobody waits for ever
                    self._fail(error)
                self._tell()
            if self.broken is None:
                self._shared.state.close()
        except BaseException as error:
            self._give_up(EngineError(f"the thread that writes texts ended: {error!r}"))
            self._tell()
            raise

    def _has_work(self) -> bool:
        """Wait for work; return whether there is some, or will be."""
        with self._change:
            while self._open and not (self._waiting or self._written) and self.broken is None:
                self._change.wait()
            return self.broken is None and (self._open or bool(self._waiting or self._written))

    def _turn(self) -> None:
        """Do a little for everyone."""
        self._drop()
        self._admit()
        fed = self._shared.feed()
        if fed is not None:
            self._write(*fed)
        texts, logits = self._shared.advance()
        for text, own in zip(texts, logits, strict=True):
            self._write(text, own)

    def _drop(self) -> None:
        """End the texts that have to end for reasons outside of them, the waiting ones, too."""
        with self._change:
            left = {ticket: self._reached(ticket) for ticket in self._waiting}
            self._waiting = deque(ticket for ticket, reason in left.items() if reason is None)
        left |= {ticket: self._reached(ticket) for ticket in self._written.values()}
        for ticket, reason in left.items():
            if reason is not None:
                ticket.text.finish_reason = reason
                self._end(ticket)

    def _reached(self, ticket: Ticket) -> FinishReason | None:
        return "cancelled" if self._stopping else ticket.reached()

    def _admit(self) -> None:
        """Give rows to those who wait."""
        while self._shared.free:
            with self._change:
                if not self._waiting:
                    return
                ticket = self._waiting.popleft()
                self._written[id(ticket.text)] = ticket
            ticket.reused = self._shared.admit(ticket.text)

    def _write(self, text: Text, logits: NDArray[np.float32]) -> None:
        """Add the next token of a text."""
        ticket = self._written[id(text)]
        try:
            token = ticket.rules.write(text, logits)
        except InvalidInputError as error:  # its own settings forbid every token
            self._end(ticket, error)
            return
        ticket.note(token)
        self._news.append(ticket)
        if text.finish_reason is not None:
            self._end(ticket)

    def _end(self, ticket: Ticket, error: EdgeGPTError | None = None) -> None:
        """Free the row of a text, if it has one, and note its end."""
        has_row = self._written.pop(id(ticket.text), None) is not None
        ticket.end(error)
        self._news.append(ticket)
        if has_row:
            self._shared.release(ticket.text)

    def _fail(self, error: BaseException) -> None:
        """End all texts that have rows, and begin anew; give up after `MOST_FAILURES` in a row."""
        logger.error("the engine failed while texts were written: %s", error, exc_info=error)
        own = (
            error if isinstance(error, EdgeGPTError) else EngineError(f"the engine failed: {error}")
        )
        self._failures += 1
        for ticket in self._written.values():
            ticket.end(own)
            self._news.append(ticket)
        self._written.clear()
        if self._failures < MOST_FAILURES:
            try:
                del self._shared  # two caches may not fit
                self._shared = self._new_rows()
                return
            except Exception as again:
                own = EngineError(f"{own}; and then: {again}")
        self._give_up(own)

    def _give_up(self, error: EdgeGPTError) -> None:
        """End everything."""
        with self._change:
            self.broken, waiting, self._waiting = error, self._waiting, deque()
        for ticket in (*waiting, *self._written.values()):
            ticket.end(error)
            self._news.append(ticket)
        self._written.clear()

    def _tell(self) -> None:
        """Tell who has news."""
        news, self._news = list(dict.fromkeys(self._news)), []
        try:
            if news:
                self.told(news)
        except Exception as error:  # a reader's fault does not end the others' texts
            logger.error("news of texts could not be told: %s", error, exc_info=error)

    def _new_rows(self) -> SharedRows:
        state = self.engine.new_state(self.rows, self.context)
        exact = not self.engine.uniform
        return SharedRows(state, steady=self.steady, exact=exact, store=self.store)
