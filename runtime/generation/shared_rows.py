"""The rows of one state, shared by texts that come, grow and go at any time.

Rows are in this order: texts that are written (ready), texts whose prompts are being fed (feeding),
free rows. A step therefore runs rows 0 .. n - 1. A free row keeps the tokens that it was fed last:
a new text that begins with the same tokens need not be fed these again, and those of a row in use
are copied to it. There is no other store of prefixes in memory; on disk there may be one, whose
prefixes are put into free rows when a text begins with them.

Feeding a prompt, and writing it on, compute the same however many other texts there are, but for
kernels that depend on the number of rows: see `steady`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..engines.base import State
from .prefill import pad
from .prefix_store import PrefixStore
from .rows import Text, window_start

__all__ = ["PIECE", "SharedRows", "Window"]

PIECE = 128  # tokens of a prompt that are fed at once
FEW = 8  # tokens that an engine feeds at hardly any cost
SHORT_REST = 16  # a piece of so many tokens or fewer joins the one before it: see `piece_of`

Logits = NDArray[np.float32]
Window = tuple[int, int]  # the first token of a text that the model sees, and the end of its prompt


@dataclass(eq=False)
class _Row:
    """What a row holds: `ids` are the tokens in its slots, of `text` from its token `start` on.

    The first `prompted` of them were fed as pieces of a prompt, as are all tokens of the text
    before its token `end`.
    """

    ids: list[int] = field(default_factory=list)
    text: Text | None = None
    start: int = 0
    end: int = 0
    prompted: int = 0
    used: int = 0  # when a text was last in it

    @property
    def wanted(self) -> list[int]:
        """Return the tokens of the text that are fed as pieces of a prompt."""
        assert self.text is not None, "a free row wants nothing"
        return self.text.ids[self.start : self.end]

    @property
    def left(self) -> int:
        """How many of them are still to be fed."""
        return self.end - self.start - len(self.ids)


class SharedRows:
    """Texts on the rows of a state.

    Attributes:
        ready: how many rows, from row 0 on, have texts that are written.
        busy: how many rows have texts, those whose prompts are fed included.
        called: the texts that the engine was last called for.
    """

    def __init__(
        self,
        state: State,
        *,
        steady: bool = False,
        exact: bool = True,
        store: PrefixStore | None = None,
    ) -> None:
        """Begin with no texts; the contents of the state's rows do not matter.

        Args:
            state: its rows.
            steady: for engines that compute a step of a single row, or a short piece, by other
                kernels than others: steps have two rows at least, and only whole pieces are used
                again, so that a text has the same bits whatever else is there.
            exact: use tokens of prompts again only, and leave two to feed. A step of one token has
                other last bits than a longer one, also in float32.
            store: prefixes on disk, fed by the same engine.
        """
        self.state, self.steady, self.exact, self.store = state, steady, exact, store
        self.ready = self.busy = 0
        self.called: list[Text] = []
        self.rows = [_Row() for _ in range(state.rows)]
        self._clock = 0
        # Rows that begin empty can be fed together on any engine: see `State.is_one_step`.
        apart = state.rows > 1 and not state.is_one_step(np.ones(1, dtype=np.int64), 0)
        self._least = FEW if apart else 1  # so many tokens at least are used again

    @property
    def texts(self) -> list[Text]:
        """The texts that are written, in the order of their rows."""
        return [row.text for row in self.rows[: self.ready] if row.text is not None]

    @property
    def free(self) -> int:
        """How many more texts there is room for."""
        return len(self.rows) - self.busy

    @property
    def windows(self) -> dict[Text, Window]:
        """Which tokens of each text were fed as pieces; with them `admit` repeats what it did."""
        rows = self.rows[: self.busy]
        return {row.text: (row.start, row.end) for row in rows if row.text is not None}

    def admit(self, text: Text, window: Window | None = None) -> int:
        """Give a text a row; return how many of its tokens need not be fed, because they are there.

        There must be a free row. With a `window` of other rows, the text was written there for a
        while: the tokens after the window are fed one by one, as they were there, for equal bits.
        """
        assert self.free, "a text needs a row"
        self.called = [text]
        start, end = window or (window_start(len(text.ids), self.state.context), len(text.ids))
        wanted, place = text.ids[start:end], self.busy
        self._restore(wanted)
        shared = [self._shared(row.ids, row.prompted, wanted) for row in self.rows]
        best = int(np.argmax(shared))
        prompted = min(shared[best], self.rows[best].prompted)
        if shared[best] == 0 or best < self.busy:  # a copy takes the place of the oldest content
            self._swap(place, self._oldest())
        else:
            self._swap(place, best)
        if best < self.busy and shared[best]:
            order = list(range(len(self.rows)))
            order[place] = best
            self.state.reorder(order, shared[best])
        count = shared[best]
        self.rows[place] = _Row(wanted[:count], text, start, end, prompted, self._now())
        self.busy += 1
        return count

    def feed(self) -> list[tuple[Text, Logits]]:
        """Feed a piece of one prompt, of each in turn, or neighbours' short prompts at once.

        Returns the texts that are ready, whose next token can be written, and their logits [V].
        """
        if self.busy == self.ready:
            return []
        first = min(range(self.ready, self.busy), key=lambda one: self.rows[one].used)
        rows = self.rows[first : self._fed_with(first)]
        self.called = [row.text for row in rows if row.text is not None]
        past_len = np.array([len(row.ids) for row in rows], dtype=np.int64)  # (B,)
        pieces = [row.wanted[len(row.ids) :][: piece_of(row.left)] for row in rows]
        ids, lengths = pad(pieces)
        self.state.step(ids, past_len, lengths[:, None] - 1, first)
        logits = self.state.logits()[:, 0].copy()  # (B, V)
        found = []
        for place, (row, piece, own) in enumerate(zip(rows, pieces, logits, strict=True), first):
            if row.prompted == len(row.ids):
                row.prompted += len(piece)
            row.ids += piece
            row.used = self._now()
            if row.left:
                continue
            self._swap(self.ready, place)
            self.ready += 1
            if row.text is not None and row.end == len(row.text.ids):
                found.append((row.text, own))
        return found

    def advance(self) -> tuple[list[Text], Logits]:
        """Feed the next token of every ready text; return these texts, and their logits [N, V].

        A text that has outgrown the context is fed anew from where its window begins, and is not
        among them, nor is one whose next token is known. The logits are valid until the next step.
        """
        self.called = list(self.windows)
        for place in reversed(range(self.ready)):
            if len(self.rows[place].ids) == self.state.context:
                self._slide(place)
        texts = self.texts
        if not texts:
            return [], np.zeros((0, 0), dtype=np.float32)
        self.called, newest = texts, []
        for place, (row, text) in enumerate(zip(self.rows, texts, strict=False)):
            token = text.ids[row.start + len(row.ids)]
            self.state.next_ids[place, 0], self.state.past_len[place] = token, len(row.ids)
            row.ids.append(token)
            row.used = self._now()
            if row.start + len(row.ids) == len(text.ids):
                newest.append(place)
        count = len(texts)
        if self.steady and count == 1 and len(self.rows) > 1:
            count = self._accompanied()
        self.state.decode(count)
        logits: Logits = self.state.logits()[: len(texts), 0]  # (N, V)
        if len(newest) == len(texts):
            return texts, logits
        return [texts[place] for place in newest], logits[newest]

    def try_out(self) -> None:
        """Have the engine feed and write a text of no meaning, as it does with others.

        Raises:
            Exception: what the engine raises, if it cannot.
        """
        text = Text([0] * min(PIECE, self.state.context - 1), seed=0, series=0)
        self.admit(text)
        while not self.feed():
            pass
        text.ids.append(0)
        self.advance()
        self.release(text)

    def release(self, text: Text) -> None:
        """Free the row of a text, whether it is being written or fed; its tokens stay there."""
        self.called = list(self.windows)
        place = next(n for n, row in enumerate(self.rows[: self.busy]) if row.text is text)
        self.rows[place].text = None
        if place < self.ready:
            self.ready -= 1
            self._swap(place, self.ready)
            place = self.ready
        self._swap(place, self.busy - 1)
        self.busy -= 1  # now, for `windows` has to know all texts if the engine fails

    def _fed_with(self, first: int) -> int:
        """Return the end of the rows, from `first` on, that are fed in one step."""
        end, most = first + 1, first + 1 if self.steady else self.busy
        while end < most and self._fits_a_step(first, end + 1):
            end += 1
        return end

    def _fits_a_step(self, first: int, end: int) -> bool:
        """Return whether all these rows' prompts can end with one step no longer than a piece."""
        rows = self.rows[first:end]
        past_len = np.array([len(row.ids) for row in rows], dtype=np.int64)  # (B,)
        longest = max(row.left for row in rows)  # shorter ones are padded, which takes slots, too
        return (
            len(rows) * longest <= PIECE
            and int(past_len.max()) + longest <= self.state.context
            and self.state.is_one_step(past_len, first)
        )

    def _slide(self, place: int) -> None:
        """Let a text whose row is full be fed again, from where its new window begins."""
        row = self.rows[place]
        assert row.text is not None, "it is ready"
        row.end, row.ids, row.prompted = len(row.text.ids), [], 0
        row.start = window_start(row.end, self.state.context)
        self.ready -= 1
        self._swap(place, self.ready)

    def _accompanied(self) -> int:
        """Let the row after the only text take part, in a slot that nothing is in; return 2."""
        other = self.rows[1]
        del other.ids[self.state.context - 1 :]
        self.state.next_ids[1, 0], self.state.past_len[1] = 0, len(other.ids)
        return 2

    def _restore(self, wanted: Sequence[int]) -> None:
        """Put a prefix from disk into a free row, if that saves feeding half of it or more."""
        if self.store is None:
            return
        there = max(self._shared(row.ids, row.prompted, wanted) for row in self.rows)
        for prefix in list(self.store.prefixes):
            ids = prefix.ids
            if 2 * (self._shared(ids, len(ids), wanted) - there) < len(ids):
                continue
            past = self.store.read(prefix)
            if past is not None:
                place = self._oldest()
                self.state.fill(past, place)
                self.rows[place] = _Row(list(ids), prompted=len(ids), used=self._now())
                there = self._shared(ids, len(ids), wanted)

    def _oldest(self) -> int:
        """Return the free row whose tokens were used longest ago."""
        return min(range(self.busy, len(self.rows)), key=lambda one: self.rows[one].used)

    def _shared(self, ids: Sequence[int], prompted: int, wanted: Sequence[int]) -> int:
        """Return with how many of a row's `ids` a text may begin; one is always left to feed."""
        most = min(len(ids), len(wanted) - 1)
        if ids[:most] == wanted[:most]:
            same = most
        else:
            same = next(n for n in range(most) if ids[n] != wanted[n])
        if self.exact:
            same = min(same, prompted, max(0, len(wanted) - 2))
        if self.steady:  # what is left to feed must not be a short piece
            same = min(same, max(0, len(wanted) - SHORT_REST - 1)) // PIECE * PIECE
        return same if same >= self._least else 0

    def _swap(self, one: int, other: int) -> None:
        """Let two rows change places."""
        if one == other:
            return
        slots = max(len(self.rows[one].ids), len(self.rows[other].ids))
        order = list(range(len(self.rows)))
        order[one], order[other] = other, one
        if slots:
            self.state.reorder(order, slots)
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def _now(self) -> int:
        self._clock += 1
        return self._clock


def piece_of(left: int) -> int:
    """Return how many of the tokens that are left of a prompt are fed next.

    A short piece would be computed by other kernels, with other bits.
    """
    return left if left <= PIECE + SHORT_REST else PIECE
