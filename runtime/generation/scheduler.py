"""Many texts on one engine, each as if it were alone: they come, are written side by side, and go.

One thread owns the engine's state. Again and again it drops who left, gives waiting texts rows,
first come first served, feeds one piece of one prompt, or short ones together, and runs one step of
all texts that are being written. A long prompt therefore delays the others by one piece at a time.
The thread never waits for a reader: what is new lies with each ticket until it is taken, and `told`
is called once a turn with the tickets that have news.

When a call to the engine fails, the state is made anew and tried. If it works, a text that the call
was for alone ends with the error. Of several each is tried by itself up to its next token, and ends
if the engine fails again. All others go on then, with the bits they would have had. Where an engine
fails with several texts again and again, and with none of them alone, it has broken down.
"""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import MANY_ROWS, Engine
from ..errors import EdgeGPTError, EngineError, InvalidInputError
from ..quantity import quantity
from ..text.tokenizer import Tokenizer
from .loop import Rules
from .prefix_store import PrefixStore
from .rows import FinishReason, Text
from .shared_rows import SharedRows
from .tickets import Ticket

__all__ = ["ROWS", "BusyError", "GoneError", "Scheduler"]

logger = logging.getLogger(__name__)

ROWS, QUEUE = 16, 256
MOST_UNEXPLAINED = 3

Told = Callable[[Sequence[Ticket]], None]


class BusyError(EdgeGPTError):
    """Too many texts wait already; later there may be room."""


class GoneError(EngineError):
    """Nobody writes texts any more; another server may."""


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
        self.broken: EngineError | None = None
        self._shared = self._new_rows()
        self._waiting: deque[Ticket] = deque()
        self._written: dict[Text, Ticket] = {}
        self._parked: deque[Ticket] = deque()  # of these, who come back to a row after a failure
        self._suspects: deque[Ticket] = deque()  # and who before that are tried one by one
        self._trial: Ticket | None = None
        self._unexplained = 0  # failures in a row with several texts, of whom none failed its trial
        self._failed_with = 0  # and how many texts there were in the last one
        self._news: list[Ticket] = []
        self._change = threading.Condition()
        self._open, self._stopping = True, False
        self._thread = threading.Thread(target=self._serve, name="edgegpt-scheduler", daemon=True)
        self._thread.start()

    def submit(self, text: Text, rules: Rules) -> Ticket:
        """Have a text written; its prompt fits the context, or may slide.

        Raises:
            BusyError: if too many texts wait.
            InvalidInputError: if the rules ask for a search or for drafts.
            GoneError: if the scheduler was closed, or is broken.
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
                raise GoneError(f"the engine broke down: {self.broken}")
            if not self._open:
                raise GoneError("the model is being closed and takes no new texts")
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
        self._shared.called = []
        self._drop()
        self._admit()
        for text, own in self._shared.feed():
            self._write(text, own)
        texts, logits = self._shared.advance()
        if self._shared.ready >= self._failed_with:
            self._unexplained = 0
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
        if self._trial is None and self._suspects:
            self._trial = self._suspects.popleft()
            self._shared.admit(self._trial.text, self._trial.window)
        if self._trial is not None:
            return
        while self._parked:
            ticket = self._parked.popleft()
            self._shared.admit(ticket.text, ticket.window)
        while self._shared.free:
            with self._change:
                if not self._waiting:
                    return
                ticket = self._waiting.popleft()
                self._written[ticket.text] = ticket
            ticket.reused = self._shared.admit(ticket.text)

    def _write(self, text: Text, logits: NDArray[np.float32]) -> None:
        """Add the next token of a text."""
        ticket = self._written[text]
        try:
            token = ticket.rules.write(text, logits)
            ticket.note(token)
        except InvalidInputError as error:  # its own settings forbid every token
            self._end(ticket, error)
            return
        except BaseException as error:  # such as a panic in a grammar; not the engine's fault
            logger.error("a text could not be written: %s", error, exc_info=error)
            self._end(ticket, EngineError(f"the text could not be written: {error}"))
            return
        self._news.append(ticket)
        if text.finish_reason is not None:
            self._end(ticket)
        elif self._trial is ticket:
            ticket.window, self._trial = self._shared.windows[text], None
            self._shared.release(text)
            self._parked.append(ticket)

    def _end(self, ticket: Ticket, error: EdgeGPTError | None = None) -> None:
        """Free the row of a text, if it has one, and note its end."""
        self._written.pop(ticket.text, None)
        ticket.end(error)
        self._news.append(ticket)
        self._trial = None if self._trial is ticket else self._trial
        for line in (self._suspects, self._parked):
            if ticket in line:
                line.remove(ticket)
        if ticket.text in self._shared.windows:
            self._shared.release(ticket.text)

    def _fail(self, error: BaseException) -> None:
        """Begin anew without the text that the engine failed with; give up if it fails again."""
        logger.error("the engine failed while texts were written: %s", error, exc_info=error)
        said, windows = _said(error), self._shared.windows
        called = self._shared.called
        blamed = [self._written[text] for text in called if text in self._written]
        _forget_frames(error)
        for ticket in self._written.values():
            ticket.window = windows.get(ticket.text, ticket.window)
        try:
            del self._shared  # two caches may not fit
            self._shared = self._new_rows()
            self._shared.try_out()
        except BaseException as again:
            both = f"{said}; and then: {_said(again)}"
            self._give_up(EngineError(said if _said(again) == said else both))
            return
        if not called:  # the fault is ours
            self._give_up(EngineError(said))
        elif self._unexplained == MOST_UNEXPLAINED and len(blamed) > 1:
            self._give_up(EngineError(f"{said} (again and again, but with no text alone)"))
        elif len(called) > 1:
            self._suspect(blamed)
        elif blamed:
            self._unexplained = 0 if self._trial is blamed[0] else self._unexplained
            self._end(blamed[0], EngineError(said))
        self._parked = deque(one for one in self._written.values() if one not in self._suspects)

    def _suspect(self, tickets: list[Ticket]) -> None:
        """Have texts tried one by one with which, and perhaps with one that left, a call failed."""
        self._suspects += tickets
        if len(tickets) > 1:
            self._unexplained, self._failed_with = self._unexplained + 1, len(tickets)

    def _give_up(self, error: EngineError) -> None:
        """End everything."""
        with self._change:
            self.broken, waiting, self._waiting = error, self._waiting, deque()
        gone = GoneError(f"the engine broke down: {error}")
        for ticket in (*waiting, *self._written.values()):
            ticket.end(gone)
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


def _said(error: BaseException) -> str:
    """Return what an error says of the engine."""
    return str(error) if isinstance(error, EdgeGPTError) else f"the engine failed: {error!r:.300}"


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what an error and those before it hold: the state that failed, among others."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
