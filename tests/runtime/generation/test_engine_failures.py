"""An engine that fails while texts are written costs the text that it fails with, and no other."""

import weakref
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from edgegpt.errors import EngineError
from edgegpt.runtime.engines.null import NullEngine, NullState
from edgegpt.runtime.generation import shared_rows
from edgegpt.runtime.generation.edits import Edit
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Text, series_of
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.scheduler import GoneError, Scheduler
from edgegpt.runtime.generation.shared_rows import SharedRows
from edgegpt.runtime.generation.tickets import Ticket

VOCABULARY, CONTEXT, SOON = 7, 12, 120
PROMPTS = [[1, 2], [3, 4, 5, 1, 2, 0, 3, 3], [1, 2, 5, 5, 5], [2] * 11]  # the last ones slide soon
LONG = 9


class Fragile(NullEngine):
    """Fails when it is told to. What it computes depends on how tokens were fed, as in life.

    Attributes:
        calls: how many steps there were.
        fails: in which of them it fails.
        poison: it also fails with texts that begin so, once they have `bearable` ids.
        most: and with steps of more rows.
        moving, moves, unmoved: whether moves count, how many there were, which of them fails.
        states: those that are still there.
    """

    def __init__(
        self, fails: Sequence[int] = (), poison: list[int] | None = None, bearable: int = 0
    ) -> None:
        super().__init__(self.mixed, VOCABULARY)
        self.calls, self.fails, self.poison, self.bearable = 0, fails, poison, bearable
        self.most, self.moving, self.moves, self.unmoved = 10**6, False, 0, 0
        self.states: weakref.WeakSet[NullState] = weakref.WeakSet()
        self.most_states = 0

    def new_state(self, rows: int, context: int, sources: object = None) -> NullState:
        found = FragileState(self, rows, context)
        self.states.add(found)
        self.most_states = max(self.most_states, len(self.states))
        return found

    def mixed(self, visible: Sequence[int]) -> np.ndarray:
        assert min(visible) >= 0
        begin = [token % VOCABULARY for token in visible[:2]]
        if begin == self.poison and len(visible) >= self.bearable:
            raise EngineError("a poisoned text")
        mixed = np.random.SeedSequence([token + 1 for token in visible])
        rng = np.random.Generator(np.random.Philox(mixed))
        return rng.normal(size=VOCABULARY).astype(np.float32)


class FragileState(NullState):
    """Keeps tokens that were fed one by one apart from those of pieces."""

    def _run(self, ids: np.ndarray, past_len: np.ndarray, places: np.ndarray, first: int) -> None:
        self.engine.calls += 1
        if self.engine.calls in self.engine.fails or len(ids) > self.engine.most:
            self.slots[:] = -1
            raise EngineError("the device is gone")
        super()._run(ids + VOCABULARY * (ids.shape[1] == 1), past_len, places, first)

    def _copy_rows(self, *moved: Any) -> None:
        self.engine.moves += self.engine.moving
        if self.engine.moving and self.engine.moves == self.engine.unmoved:
            self.slots[:] = -1
            raise EngineError("rows cannot be moved")
        super()._copy_rows(*moved)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rows, "PIECE", 4)
    monkeypatch.setattr(shared_rows, "SHORT_REST", 2)


@pytest.fixture
def schedulers() -> Iterator[list[Scheduler]]:
    found: list[Scheduler] = []
    yield found
    for one in found:
        one.close()
        assert not one.alive


def written(
    scheduler: Scheduler, prompts: Sequence[Sequence[int]], new: int = LONG
) -> list[object]:
    """Return the new ids of texts, or what ended them."""
    own = Rules(CONTEXT, new, Sampling(1.0, top_k=5), "slide", 0.0)
    with scheduler._change:  # all at once, so that each run is the same
        tickets = [
            scheduler.submit(Text(list(ids), seed=1, series=series_of(list(ids))), own)
            for ids in prompts
        ]
    found: list[object] = []
    for ticket in tickets:
        try:
            found.append(ticket.wait(SOON).token_ids)
        except EngineError as error:
            found.append(error)
    return found


def alone(new: int = LONG) -> list[object]:
    """Return what the texts are one by one on an engine that does not fail."""
    found = []
    for ids in PROMPTS:
        scheduler = Scheduler(Fragile(), None, CONTEXT, rows=1)
        found += written(scheduler, [ids], new)
        scheduler.close()
    return found


@pytest.mark.parametrize("rows", [1, 3])
def test_whenever_an_engine_fails_the_others_have_the_bits_they_have_alone(rows: int) -> None:
    expected, survived, lost = alone(), 0, 0
    for fails in count(1):
        engine = Fragile([fails])
        scheduler = Scheduler(engine, None, CONTEXT, rows=rows)
        found = written(scheduler, PROMPTS)
        assert scheduler.broken is None
        scheduler.close()
        if engine.calls < fails:
            break  # it had nothing more to do
        ended = [one for one in found if isinstance(one, EngineError)]
        assert len(ended) <= 1
        assert all(str(one) == "the device is gone" for one in ended)
        lost += len(ended)
        survived += not ended
        right = [one for one in found if not isinstance(one, EngineError)]
        assert right == [ids for ids, one in zip(expected, found, strict=True) if one not in ended]
        assert engine.most_states == 1  # two caches may not fit
    assert fails > LONG
    assert lost > 5
    assert survived > 5 or rows == 1  # a step of several texts that fails once hurts none


@pytest.mark.parametrize("bearable", [0, 4, 7], ids=["fed", "at once", "later"])
def test_a_text_that_no_engine_bears_is_ended_alone(
    schedulers: list[Scheduler], bearable: int
) -> None:
    """Also while it is written beside others, where it isn't plain whose fault it is."""
    poisoned = [6, 6, 1]
    engine = Fragile(poison=[6, 6], bearable=bearable)
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=4))
    for _ in range(3):  # clients try again by themselves
        prompts = [*PROMPTS[:2], poisoned, *PROMPTS[2:]]
        first, second, bad, *others = written(schedulers[0], prompts)
        assert str(bad) == "a poisoned text"
        assert [first, second, *others] == alone()
        assert schedulers[0].broken is None


@pytest.mark.parametrize("where", ["release", "_slide"])
def test_an_engine_that_cannot_make_room_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not those beside whom a text ends, is cancelled or slides, nor those who begin anew."""

    def leave(tickets: Sequence[Ticket]) -> None:
        for one in tickets:
            if one.text.ids[:2] == [5, 1] and len(one.text.new_ids) == 7:
                one.cancel()

    expected, run = alone(20), getattr(SharedRows, where)
    for unmoved in count(1):
        engine = Fragile()
        engine.unmoved = unmoved

        def moving(rows: SharedRows, what: Any, engine: Fragile = engine) -> None:
            engine.moving = True
            try:
                run(rows, what)
            finally:
                engine.moving = False

        monkeypatch.setattr(SharedRows, where, moving)
        scheduler = Scheduler(engine, None, CONTEXT, rows=4, told=leave)
        found = written(scheduler, [[5, 1], *PROMPTS], 20)
        assert scheduler.broken is None
        scheduler.close()
        assert found[1:] == expected
        assert isinstance(found[0], list)
        assert len(found[0]) < 20
        if engine.moves < unmoved:
            break
    assert unmoved > 3


def test_an_engine_that_bears_no_two_texts_has_broken_down(schedulers: list[Scheduler]) -> None:
    engine = Fragile()
    engine.most = 2
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=4))
    assert written(schedulers[0], PROMPTS[:2]) == alone()[:2]
    found = written(schedulers[0], PROMPTS, 10**5)
    assert all(isinstance(one, GoneError) for one in found)
    assert {str(one) for one in found} == {
        "the engine broke down: the device is gone (again and again, but with no text alone)"
    }
    assert engine.calls < 1000


def test_an_engine_may_fail_now_and_then_for_ever(schedulers: list[Scheduler]) -> None:
    engine, turns, failures = Fragile(), count(1), []

    def told(_: Sequence[Ticket]) -> None:
        engine.most = 1 if next(turns) % 37 == 0 else 10**6

    schedulers.append(Scheduler(engine, None, CONTEXT, rows=3, told=told))
    fail = schedulers[0]._fail
    schedulers[0]._fail = lambda error: (failures.append(error), fail(error))  # type: ignore
    found = written(schedulers[0], PROMPTS, 300)
    assert found == alone(300)
    assert len(failures) > 5


def test_a_crowd_that_no_engine_bears_does_not_break_it(schedulers: list[Scheduler]) -> None:
    schedulers.append(Scheduler(Fragile(poison=[6, 6], bearable=4), None, CONTEXT, rows=2))
    found = written(schedulers[0], [[6, 6]] * 12)
    assert {str(one) for one in found} == {"a poisoned text"}
    assert schedulers[0].broken is None


def test_rows_know_their_texts_when_one_could_not_be_freed() -> None:
    engine = Fragile()
    rows = SharedRows(engine.new_state(3, CONTEXT))
    texts = [Text([one] * 8, seed=1, series=1) for one in range(3)]
    for text in texts:
        rows.admit(text)
    assert [rows.feed() for _ in texts] == [[]] * 3
    engine.moving, engine.unmoved = True, 1
    with pytest.raises(EngineError, match="rows cannot be moved"):
        rows.release(texts[0])
    assert set(rows.windows) == {*texts[1:]}
    assert rows.called == texts


def test_several_that_no_engine_bears_are_ended_one_by_one(schedulers: list[Scheduler]) -> None:
    engine = Fragile(poison=[6, 6], bearable=8)
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=4))
    found = written(schedulers[0], [[6, 6, 1], PROMPTS[0], [6, 6], [6, 6, 3, 3], PROMPTS[1]])
    assert [isinstance(one, EngineError) for one in found] == [True, False, True, True, False]
    assert [found[1], found[4]] == alone()[:2]


def test_an_engine_that_fails_again_when_it_is_tried_ends_everything(
    schedulers: list[Scheduler],
) -> None:
    schedulers.append(Scheduler(Fragile(range(20, 10**6)), None, CONTEXT, rows=2))
    found = written(schedulers[0], PROMPTS * 2, 10**5)
    assert all(isinstance(one, GoneError) for one in found)
    assert {str(one) for one in found} == {"the engine broke down: the device is gone"}
    schedulers[0]._thread.join(SOON)
    assert not schedulers[0].alive
    with pytest.raises(GoneError, match="the engine broke down: the device is gone"):
        written(schedulers[0], [[1]])


def test_no_memory_for_a_new_state_ends_everything(
    schedulers: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Fragile([3])
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=2))

    def no_memory(*_: object) -> None:
        raise MemoryError("16 GB")

    monkeypatch.setattr(engine, "new_state", no_memory)
    assert all(isinstance(one, GoneError) for one in written(schedulers[0], PROMPTS))
    assert "the device is gone; and then: the engine failed: MemoryError('16 GB')" in str(
        schedulers[0].broken
    )


def test_a_panic_in_the_rules_of_a_text_ends_this_text(schedulers: list[Scheduler]) -> None:
    class Panic(BaseException):
        """As Rust's, which is no Exception."""

    class Panics(Edit):
        def apply(self, scores: object, ids: Sequence[int], step: int) -> None:
            if step == 3:
                raise Panic("index out of range")

    engine = Fragile()
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=2))
    own = Rules(CONTEXT, 10, Sampling(1.0), "slide", 0.0, edits=(Panics(),))
    bad = schedulers[0].submit(Text([1, 2], seed=1, series=1), own)
    assert written(schedulers[0], PROMPTS) == alone()
    with pytest.raises(EngineError, match="the text could not be written: index out of range"):
        bad.wait(SOON)
    assert len(bad.text.new_ids) == 3


def test_who_leaves_while_the_engine_begins_anew_is_gone(schedulers: list[Scheduler]) -> None:
    """Also those who still wait to come back to a row."""
    engine = Fragile([12])
    schedulers.append(Scheduler(engine, None, CONTEXT, rows=3))
    own = Rules(CONTEXT, 10**6, Sampling(1.0), "slide", 0.0)
    tickets = [schedulers[0].submit(Text([1, one], seed=1, series=one), own) for one in range(3)]
    fail = schedulers[0]._fail

    def leave(error: BaseException) -> None:
        fail(error)
        assert len(schedulers[0]._suspects) > 1
        for ticket in tickets:
            ticket.cancel()

    schedulers[0]._fail = leave  # type: ignore[method-assign]
    assert [one.wait(SOON).finish_reason for one in tickets] == ["cancelled"] * 3
    assert written(schedulers[0], PROMPTS) == alone()
