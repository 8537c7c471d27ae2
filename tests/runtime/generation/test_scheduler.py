"""Texts that are written side by side are what they are alone, and nobody waits for ever."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgegpt
from edgegpt.errors import EngineError, InvalidInputError
from edgegpt.runtime.engines.null import NullEngine, NullState
from edgegpt.runtime.generation import shared_rows
from edgegpt.runtime.generation.beams import BeamRules
from edgegpt.runtime.generation.edits import BadWords
from edgegpt.runtime.generation.limits import Limits
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text, series_of
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.scheduler import BusyError, Scheduler
from edgegpt.runtime.generation.shared_rows import SharedRows, piece_of
from edgegpt.runtime.generation.tickets import Ticket

VOCABULARY, CONTEXT, SOON = 7, 12, 120
WARM = Sampling(temperature=1.0, top_k=5)


def network(visible: Sequence[int]) -> np.ndarray:
    """Return logits that every visible id and every position changes; an empty slot is an error."""
    assert min(visible) >= 0
    mixed = np.random.SeedSequence([token + 1 for token in visible])
    return np.random.Generator(np.random.Philox(mixed)).normal(size=VOCABULARY).astype(np.float32)


def rules(count: int = 10, **changes: object) -> Rules:
    return Rules(CONTEXT, count, changes.pop("sampling", WARM), "slide", 0.0, **changes)


def text(ids: Sequence[int], seed: int = 1) -> Text:
    return Text(list(ids), seed=seed, series=series_of(list(ids)))


def alone(ids: Sequence[int], own: Rules, seed: int = 1) -> list[int]:
    one = text(ids, seed)
    list(generate_tokens(NullEngine(network, VOCABULARY), [one], own))
    return one.new_ids


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rows, "PIECE", 3)
    monkeypatch.setattr(shared_rows, "SHORT_REST", 1)


class Gate(NullEngine):
    """Waits before each step until it may go on; can be told to fail."""

    def __init__(self) -> None:
        super().__init__(self.slowly, VOCABULARY)
        self.may, self.fail = threading.Semaphore(0), 0

    def slowly(self, visible: Sequence[int]) -> np.ndarray:
        assert self.may.acquire(timeout=SOON)
        if self.fail:
            self.fail -= 1
            raise EngineError("the device is gone")
        return network(visible)


class Apart(NullState):
    """As of an engine that runs rows one by one if one of them holds tokens already."""

    def is_one_step(self, past_len: np.ndarray, first: int) -> bool:
        return not past_len.any()


def until(holds: object) -> None:
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


Prompts = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20),
        st.integers(1, 30),
        st.integers(0, 3),  # when it comes: so many steps after the one before
        st.booleans(),  # whether its reader leaves early
    ),
    min_size=1,
    max_size=9,
)


@given(
    prompts=Prompts,
    capacity=st.integers(1, 4),
    steady=st.booleans(),
    twice=st.booleans(),
    apart=st.booleans(),
    piece=st.sampled_from([3, 8, 16]),
)
@settings(deadline=None, max_examples=200)
def test_every_text_on_shared_rows_is_what_it_is_alone(
    prompts: list[tuple[list[int], int, int, bool]],
    capacity: int,
    steady: bool,
    twice: bool,
    apart: bool,
    piece: int,
) -> None:
    """Whatever else comes, goes, slides, is fed alone or with others, or has left its tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_rows, "PIECE", piece)
        patch.setattr(shared_rows, "SHORT_REST", 1)
        state = (Apart if apart else NullState)(NullEngine(network, VOCABULARY), capacity, CONTEXT)
        rows, lives = SharedRows(state, steady=steady), {}
        coming = [*prompts, *prompts] if twice else list(prompts)
        pause = 0
        while coming or lives:
            while coming and rows.free and pause == 0:
                ids, count, pause, leaves = coming.pop(0)
                own, settings = text(ids), rules(count)
                lives[own] = (settings, count // 2 if leaves else count)
                rows.admit(own)
            pause = max(0, pause - 1)
            for one, logits in rows.feed():
                lives[one][0].write(one, logits)
            for one, logits in zip(*rows.advance(), strict=True):
                if one.finish_reason is None and len(one.new_ids) < lives[one][1]:
                    lives[one][0].write(one, logits)
            for one in list(lives):
                own, most = lives[one]
                if len(one.new_ids) >= max(most, 1):
                    expected = alone(one.ids[: one.prompt_length], own)
                    assert one.new_ids == expected[: len(one.new_ids)]
                    rows.release(one)
                    del lives[one]


def test_tokens_that_are_there_already_are_not_fed_again(small_pieces: None) -> None:
    rows = SharedRows(NullEngine(network, VOCABULARY).new_state(3, CONTEXT))
    first, longer, other = text([1, 2, 3, 4]), text([1, 2, 3, 4, 5, 6]), text([1, 2, 6])
    assert rows.admit(first) == 0
    while not rows.feed():
        pass
    rows.release(first)
    assert rows.admit(longer) == 4  # in the row that was left
    assert rows.admit(other) == 1  # a copy of a row in use; two tokens are left to feed
    for one, logits in [*rows.feed(), *rows.feed()]:
        np.testing.assert_array_equal(logits, network(one.ids))


def test_where_kernels_differ_only_whole_pieces_are_used_again(
    small_pieces: None,
) -> None:
    rows, steps = SharedRows(NullEngine(network, VOCABULARY).new_state(2, CONTEXT), steady=True), []
    first = text([1, 2, 3, 4])
    rows.admit(first)
    while not rows.feed():
        pass
    for token in (5, 6, 0, 1):
        first.ids.append(token)
        rows.advance()
    rows.release(first)
    decode = rows.state.decode
    rows.state.decode = lambda count: (steps.append(count), decode(count))  # type: ignore[method-assign]
    again = text([1, 2, 3, 4, 5, 6, 0, 1, 2])
    assert rows.admit(again) == 3
    while not rows.feed():
        pass
    again.ids.append(2)
    rows.advance()
    assert steps == [2]  # a row alone takes another one along


def test_where_kernels_differ_no_short_piece_is_left_to_feed(
    small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "SHORT_REST", 2)
    # Alone, 8 tokens are fed as 3 and 5: the last 2 of them never by themselves.
    for end, expected in (([1, 2], 3), ([1, 2, 3], 6)):
        state = NullEngine(network, VOCABULARY).new_state(2, CONTEXT)
        rows, first = SharedRows(state, steady=True), text([1, 2, 3, 4, 5, 6, 0])
        rows.admit(first)
        while not rows.feed():
            pass
        rows.release(first)
        assert rows.admit(text([1, 2, 3, 4, 5, 6, *end])) == expected


def test_what_was_written_is_fed_again_as_a_prompt(small_pieces: None) -> None:
    """A step of one token has other last bits than a piece."""
    state = NullEngine(network, VOCABULARY).new_state(2, CONTEXT)
    for exact, expected in ((True, 2), (False, 5)):
        rows, first = SharedRows(state, exact=exact), text([1, 2])
        rows.admit(first)
        rows.feed()
        for token in (3, 4, 5):
            first.ids.append(token)
            rows.advance()
        rows.release(first)
        assert rows.admit(text([1, 2, 3, 4, 5, 6, 0])) == expected


def steps_of(rows: SharedRows, prompts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return the first row and the number of rows of each step that feeds texts of one turn."""
    found: list[tuple[int, int]] = []
    run = rows.state._run

    def noted(ids: np.ndarray, *others: object) -> None:
        found.append((int(others[-1]), len(ids)))  # type: ignore[call-overload]
        run(ids, *others)

    rows.state._run = noted  # type: ignore[method-assign]
    for ids in prompts:
        rows.admit(text(ids))
    while rows.ready < rows.busy:
        for one, logits in rows.feed():
            np.testing.assert_array_equal(logits, network(one.ids))
    rows.state._run = run  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[1, 2], [2], [3, 4], [4]], [(0, 4)]),  # together no longer than a piece of 8, padded
        ([[1, 2, 3], [2], [3], [4]], [(0, 2), (2, 2)]),
        ([[1], [2] * 5, [3], [4]], [(0, 1), (1, 1), (2, 2)]),
        ([[1] * 10, [2], [3]], [(0, 1), (1, 2), (2, 1)]),  # the long one comes when it is its turn
    ],
)
def test_neighbours_are_fed_at_once_if_no_step_is_longer_than_a_piece(
    monkeypatch: pytest.MonkeyPatch, prompts: list[list[int]], expected: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(shared_rows, "PIECE", 8)
    monkeypatch.setattr(shared_rows, "SHORT_REST", 1)
    engine = NullEngine(network, VOCABULARY)
    assert steps_of(SharedRows(engine.new_state(4, CONTEXT)), prompts) == expected
    steady = SharedRows(engine.new_state(4, CONTEXT), steady=True)
    assert all(count == 1 for _, count in steps_of(steady, prompts))


def test_padding_takes_no_slots_behind_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is nearly full, with two tokens to feed, is not fed with one that has four."""
    monkeypatch.setattr(shared_rows, "PIECE", 8)
    full = [1, 2] * (CONTEXT // 2)
    for prompts in ([full, [3] * 4], [[3] * 4, full]):
        rows = SharedRows(NullEngine(network, VOCABULARY).new_state(2, CONTEXT))
        assert steps_of(rows, [full]) == [(0, 1)]
        rows.release(rows.texts[0])
        assert steps_of(rows, prompts) == [(0, 1), (1, 1)]


def test_who_waits_longest_is_fed_next() -> None:
    rows = SharedRows(NullEngine(network, VOCABULARY).new_state(3, 700))
    texts = [text([one] * 600) for one in range(3)]
    for one in texts:
        rows.admit(one)
    fed: list[Text] = []
    for _ in range(6):
        rows.feed()
        fed += rows.called
    assert fed == [*texts, *texts]


@pytest.mark.parametrize("kind", [Apart, NullState])
def test_a_few_equal_tokens_keep_no_row_from_being_fed_with_others(kind: type[NullState]) -> None:
    """Such as a start id: an engine that runs filled rows one by one feeds it again."""
    begin, reused = [1, 2, 3], 0 if kind is Apart else 3
    rows = SharedRows(kind(NullEngine(network, VOCABULARY), 3, 40))
    first = text([*begin, 4, 4])
    rows.admit(first)
    rows.feed()
    rows.release(first)
    assert rows.admit(text([*begin, 5, 6])) == reused
    assert rows.admit(text([*begin, 6, 6])) == reused
    assert len(rows.feed()) == 2
    for one in rows.texts:
        rows.release(one)
    longer = [*begin, *begin, *begin]
    shared = [text([*longer, one, 0]) for one in range(3)]
    rows.admit(shared[0])
    rows.feed()
    assert [rows.admit(one) for one in shared[1:]] == [9, 9]
    assert len(rows.feed()) == (1 if kind is Apart else 2)


def test_a_short_rest_joins_the_piece_before_it() -> None:
    assert [piece_of(left) for left in (1, 128, 129, 144, 145, 500)] == [1, 128, 129, 144, 128, 128]


def test_many_streams_of_a_real_model_have_the_bits_they_have_alone(small_bundle: Path) -> None:
    with edgegpt.load(small_bundle, "cpu", threads=1) as model:
        prompts = ["The wind", "The wind and", "rain", "a", "The wind"] * 8
        seeds = range(len(prompts))
        own = Rules(model.context, 40, Sampling(0.9, top_k=20), "slide", 0.0)
        single = [
            model.generate(prompt, max_new_tokens=40, temperature=0.9, top_k=20, seed=seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        scheduler = Scheduler(model.engine, model.tokenizer, model.context, rows=6)
        tickets = [
            scheduler.submit(text(model.encode_prompt(prompt), seed), own)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        results = [ticket.wait(SOON) for ticket in tickets]
        scheduler.close()
    assert [one.text for one in results] == [one.text for one in single]
    assert [one.token_ids for one in results] == [one.token_ids for one in single]
    for ticket, result in zip(tickets, results, strict=True):
        news = ticket.take()
        assert [one.token for one in news if one.token is not None] == result.token_ids
        assert "".join(one.piece for one in news) == result.text


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(gate: Gate) -> Iterator[Scheduler]:
    scheduler = Scheduler(gate, None, CONTEXT, rows=2, queue=3)
    yield scheduler
    gate.may.release(10**6)
    scheduler.close()
    assert not scheduler.alive


def both_rows(gate: Gate, scheduler: Scheduler) -> list[Ticket]:
    """Fill both rows with texts that do not end; the engine waits in a step."""
    tickets = [scheduler.submit(text([one]), rules(10**5)) for one in range(2)]
    until(lambda: gate.may.release() or scheduler.running == 2)
    return tickets


def test_who_leaves_frees_the_row_and_the_place_in_the_queue(gate: Gate, gated: Scheduler) -> None:
    tickets = both_rows(gate, gated)
    tickets += [gated.submit(text([1, one]), rules(10**5)) for one in range(3)]
    with pytest.raises(BusyError, match="3 texts wait already"):
        gated.submit(text([1]), rules())
    tickets[0].cancel()  # written
    tickets[3].cancel()  # waiting
    gate.may.release(100)
    assert tickets[0].wait(SOON).finish_reason == "cancelled"
    assert tickets[3].wait(SOON).token_ids == []
    until(lambda: (gated.running, gated.waiting) == (2, 1))


def test_a_deadline_holds_while_a_text_waits(gate: Gate, gated: Scheduler) -> None:
    both_rows(gate, gated)
    late = gated.submit(text([3]), rules(10**5, limits=Limits(0.0)))
    gate.may.release(100)
    assert late.wait(SOON).finish_reason == "time"


def test_settings_that_forbid_every_token_end_one_text_only(gate: Gate, gated: Scheduler) -> None:
    gate.may.release(10**4)
    every = tuple((token,) for token in range(VOCABULARY))
    bad = gated.submit(text([1]), rules(edits=(BadWords(every),)))
    good = gated.submit(text([2]), rules(5))
    with pytest.raises(InvalidInputError, match="forbid every id"):
        bad.wait(SOON)
    assert good.wait(SOON).token_ids == alone([2], rules(5))


def test_closing_lets_texts_end_for_a_while(gate: Gate) -> None:
    scheduler = Scheduler(gate, None, CONTEXT, rows=1)
    ends, endless = scheduler.submit(text([1]), rules(5)), scheduler.submit(text([2]), rules(10**6))
    gate.may.release(10**6)
    scheduler.close(drain=0.5)
    assert ends.wait(0).finish_reason == "length"
    assert endless.wait(0).finish_reason == "cancelled"
    with pytest.raises(EngineError, match="is being closed"):
        scheduler.submit(text([1]), rules())


def test_readers_are_told_once_a_turn_and_their_faults_hurt_nobody() -> None:
    told: list[list[Ticket]] = []

    def tell(tickets: Sequence[Ticket]) -> None:
        told.append(list(tickets))
        raise RuntimeError("a reader's fault")

    scheduler = Scheduler(NullEngine(network, VOCABULARY), None, CONTEXT, rows=2, told=tell)
    tickets = [scheduler.submit(text([one]), rules(5)) for one in range(2)]
    for ticket in tickets:
        assert len(ticket.wait(SOON).token_ids) == 5
    scheduler.close()
    assert all(len(set(turn)) == len(turn) for turn in told)
    assert {ticket for turn in told for ticket in turn} == set(tickets)


def test_what_cannot_be_written_side_by_side_is_refused(gated: Scheduler) -> None:
    with pytest.raises(InvalidInputError, match="num_beams"):
        gated.submit(text([1]), rules(beams=BeamRules(2)))
    with pytest.raises(InvalidInputError, match="speculate"):
        gated.submit(text([1]), rules(sampling=Sampling(), speculate=3))
    assert gated.submit(text([1]), rules(0)).wait(0).token_ids == []
