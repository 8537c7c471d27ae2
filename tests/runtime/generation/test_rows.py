"""Texts that join, fork, slide and leave get the same tokens as each alone, on every engine."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import NEEDS_COMPILER, native_engine
from schedules import compare_up_to_a_near_tie, play, play_alone, schedules

from edgegpt.runtime.engines.moves import SPARE, moves_in_order
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.errors import InvalidInputError
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.prefill import last_logits, pad
from edgegpt.runtime.generation.rows import Rows, Text, window_start
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.shared_rows import SharedRows

VOCABULARY, ENDLESS = 7, 10**6
ORT = ["ort", "standard", "legacy", "cuda"]
ENGINES = [*ORT, pytest.param("native", marks=NEEDS_COMPILER)]
GREEDY, WARM = Sampling(), Sampling(temperature=1.0, top_k=5)


def network(visible) -> np.ndarray:
    """Return logits that every visible id and every position changes; an empty slot is an error."""
    assert min(visible) >= 0
    mixed = np.random.SeedSequence([token + 1 for token in visible])
    return np.random.Generator(np.random.Philox(mixed)).normal(size=VOCABULARY).astype(np.float32)


def text(*ids: int) -> Text:
    return Text(list(ids), seed=1, series=0)


@given(
    schedule=schedules(VOCABULARY),
    capacity=st.integers(1, 5),
    context=st.integers(1, 9),
    sampling=st.sampled_from([GREEDY, WARM]),
)
@settings(deadline=None, max_examples=300)
def test_every_text_is_what_it_is_alone(schedule, capacity, context, sampling):
    rules = Rules(context, ENDLESS, sampling, "slide", 1e-5)
    engine = NullEngine(network, VOCABULARY)
    lives = play(engine.new_state(capacity, context), schedule, rules)
    assert lives
    for life in lives:
        ids = list(life.begin)
        for step, logits in enumerate(life.logits):
            np.testing.assert_array_equal(logits, network(ids[window_start(len(ids), context) :]))
            ids.append(life.text.ids[len(life.begin) + step])
        if life.logits:
            assert play_alone(engine.new_state(1, context), life, rules).text.ids == life.text.ids


@pytest.fixture(scope="module")
def engines(small_bundle: Path):
    """The CPU engine in all lowerings, CUDA's on the host's memory, and one that is compiled."""
    from host_engine import host_engine

    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.engines.choice import open_engine
    from edgegpt.runtime.engines.options import EngineOptions

    bundle, options = Bundle.open(small_bundle), EngineOptions("cpu", threads=1)
    made = {
        name: open_engine(bundle, options, lowering=name) for name in ("ort", "standard", "legacy")
    }
    made["cuda"] = host_engine(bundle)
    if shutil.which("c++"):
        made["native"] = native_engine(bundle, threads=2)
    yield made
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize("name", ENGINES)
@given(schedule=schedules(34, longest=20, steps=12), context=st.sampled_from([6, 32]))
@settings(deadline=None, max_examples=12)
def test_every_text_of_a_real_engine_is_what_it_is_alone(engines, name, schedule, context):
    engine, rules = engines[name], Rules(context, ENDLESS, GREEDY, "slide", 1e-5)
    with engine.new_state(3, context) as state:
        lives = play(state, schedule, rules)
    with engine.new_state(1, context) as single:
        for life in lives:
            if life.logits:
                alone = play_alone(single, life, rules)
                compare_up_to_a_near_tie(life, alone, 1e-5)


@pytest.mark.parametrize("name", ENGINES)
@given(
    turns=st.lists(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=15)
def test_prompts_that_arrive_together_are_what_each_is_alone(engines, name, turns):
    """They are fed in steps of several rows, some of which hold their first tokens already."""
    engine = engines[name]
    exact = name in ("ort", "native")  # the same bits, also of what was fed, hence of the next one
    tolerance = 0 if exact else 1e-5
    with engine.new_state(5, 32) as state, engine.new_state(2, 32) as single:
        rows = SharedRows(state, exact=not engine.uniform)
        for prompts in turns:
            for ids in prompts:
                rows.admit(text(*ids))
            found = {}
            while rows.ready < rows.busy:
                found |= {one: [logits] for one, logits in rows.feed()}
            for one in found:
                one.ids.append(7)
            for one, logits in zip(*rows.advance(), strict=True):
                found[one].append(logits.copy())
            assert len(found) == len(prompts)
            for one, (fed, written) in found.items():
                rows.release(one)
                begin = last_logits(single, *pad([one.ids[:-1]] * 2))[0]
                single.next_ids[:], single.past_len[:] = 7, len(one.ids) - 1
                single.decode()
                for ours, alone in ((fed, begin), (written, single.logits()[0, 0])):
                    assert np.abs(ours - alone).max() <= tolerance * np.abs(alone).max()


def test_only_rows_in_use_are_fed():
    engine, fed = NullEngine(network, VOCABULARY), []
    state = engine.new_state(4, 16)
    decode = state._decode
    state._decode = lambda count, longest: (fed.append(count), decode(count, longest))
    rows, rules = Rows(state), Rules(16, ENDLESS, GREEDY, "slide", 1e-5)
    texts = [text(1), text(2, 3), text(4), text(5)]
    for own, logits in zip(texts, rows.admit(texts), strict=True):
        rules.write(own, logits)
    for leaving in texts:
        for own, logits in zip(rows.texts, rows.advance(), strict=True):
            rules.write(own, logits)
        rows.release([leaving])
    assert fed == [4, 3, 2, 1]
    assert rows.texts == []


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_logits_of_the_rows_that_were_decoded_alone(engines, name):
    state = engines[name].new_state(4, 16)
    state.step(np.full((4, 2), 3), np.zeros(4, dtype=np.int64), np.ones((4, 1), dtype=np.int64))
    state.next_ids[:], state.past_len[:] = 5, 2
    for count in (4, 2, 1, 3):
        state.decode(count)
        assert state.logits().shape == (count, 1, 34)
        np.testing.assert_allclose(state.logits(), state.logits()[:1].repeat(count, 0), atol=1e-6)
    state.close()


@pytest.mark.parametrize("name", ENGINES)
def test_feeding_some_rows_leaves_the_others_as_they_are(engines, name):
    engine, rng = engines[name], np.random.default_rng(0)
    ids = rng.integers(0, 34, (4, 5))
    last, nothing = np.full((4, 1), 4), np.zeros(4, dtype=np.int64)
    expected = []
    for row in (3, 0, 1, 2):  # row 3 comes first, because the other state feeds it to its row 0
        alone = engine.new_state(1, 16)
        alone.step(ids[row, None], nothing[:1], last[:1])
        alone.next_ids[:], alone.past_len[:] = 7, 5
        alone.decode()
        expected.append(alone.logits()[0, 0].copy())
        alone.close()
    state = engine.new_state(4, 16)
    state.step(rng.integers(0, 34, (4, 9)), nothing, np.full((4, 1), 8))  # earlier texts
    state.step(ids[:2, :2], nothing[:2], nothing[:2, None], first=1)
    state.step(ids[:2, 2:], nothing[:2] + 2, last[:2] - 2, first=1)  # on top of a filled cache
    state.step(ids[3, None], nothing[:1], last[:1], first=0)
    state.step(ids[2, None], nothing[:1], last[:1], first=3)
    state.next_ids[:], state.past_len[:] = 7, 5
    state.decode()
    np.testing.assert_allclose(state.logits()[:, 0], expected, atol=1e-5)
    state.close()


@given(st.integers(1, 9), st.data())
def test_moves_one_by_one_do_what_all_at_once_would(count, data):
    parents = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count))
    targets = [row for row, parent in enumerate(parents) if row != parent]
    moves = moves_in_order([parents[row] for row in targets], targets)
    rows = dict(enumerate("abcdefghi"[:count])) | {SPARE: "?"}
    expected = [rows[parent] for parent in parents]
    for source, target in moves:
        rows[target] = rows[source]
    assert [rows[row] for row in range(len(parents))] == expected
    circles = sum(SPARE in move for move in moves)
    assert len(moves) == len(targets) + circles // 2  # a row waits only where it must


@pytest.mark.parametrize("parents", [[2, 1], [0, 0, 1, 2], [3, 2, 1, 0], [1, 2, 3, 0], [2, 2, 2]])
@pytest.mark.parametrize("name", ENGINES)
def test_reordered_rows_go_on_as_their_parents(engines, name, parents):
    engine, nothing = engines[name], np.zeros(4, dtype=np.int64)
    ids = np.random.default_rng(1).integers(0, 34, (4, 6))
    states = [engine.new_state(4, 16) for _ in range(2)]
    for state in states:
        state.step(ids, nothing, np.full((4, 1), 5))
        state.next_ids[:], state.past_len[:] = [[1], [1], [1], [1]], 6
    states[1].decode()
    expected = states[1].logits()[parents, 0].copy()
    states[0].reorder(parents, 6)
    states[0].decode(len(parents))
    np.testing.assert_allclose(states[0].logits()[:, 0], expected, atol=1e-6)
    for state in states:
        state.close()


@pytest.mark.parametrize("name", ORT)  # a compiled engine copies 16 slots at a time
def test_slots_that_are_equal_already_are_not_copied(engines, name):
    """Slots 4 and 5 come from the parents; then the rows have others before them, their own."""
    engine, parents = engines[name], [0, 0, 3, 3]
    nothing, positions = np.zeros(4, dtype=np.int64), np.zeros((4, 1), dtype=np.int64)
    ids = np.random.default_rng(1).integers(0, 34, (4, 6))
    states = [engine.new_state(4, 16) for _ in range(2)]
    states[0].step(ids, nothing, positions)
    states[0].reorder(parents, 6, since=4)
    states[1].step(ids[parents], nothing, positions)
    states[1].step(ids[:, :4], nothing, positions)
    for state in states:
        state.next_ids[:], state.past_len[:] = 1, 6
        state.decode()
    np.testing.assert_allclose(states[0].logits(), states[1].logits(), atol=1e-6)
    for state in states:
        state.close()


def test_what_cannot_be_is_refused():
    engine = NullEngine(network, VOCABULARY)
    state = engine.new_state(2, 8)
    for parents, slots in (([0, 2], 3), ([-1], 3), ([0, 1, 0], 3), ([1], 9), ([], 1)):
        with pytest.raises(InvalidInputError, match="rows"):
            state.reorder(parents, slots)
    for since in (-1, 4):
        with pytest.raises(InvalidInputError, match=f"cannot copy the slots {since} to 3"):
            state.reorder([1, 1], 3, since=since)
    one = np.ones((1, 1), dtype=np.int64)
    with pytest.raises(InvalidInputError, match="rows 2 to 2, the state 2"):
        state.step(one, one[0] * 0, one * 0, first=2)
    with pytest.raises(InvalidInputError, match="3 rows, the state 2"):
        state.decode(3)
    rows = Rows(state)
    with pytest.raises(InvalidInputError, match="without any token"):
        rows.admit([text()])
    rows.admit([text(1), text(2)])
    with pytest.raises(InvalidInputError, match="the state 2 in all"):
        rows.admit([text(3)])
    with pytest.raises(InvalidInputError, match="no text to admit"):
        rows.admit([])
    with pytest.raises(InvalidInputError, match="only a text that is in a row"):
        rows.fork(text(9), series=1)
    with pytest.raises(InvalidInputError, match="3 rows are to go on, and the state has 2"):
        rows.fork(rows.texts[0], series=1)
    for parents, texts in (([0, 5], [text(1), text(2)]), ([0, 1], [text(1)])):
        with pytest.raises(InvalidInputError, match="cannot go on from the rows"):
            rows.reorder(parents, texts)
    assert [one.ids for one in rows.texts] == [[1], [2]]


def test_beams_go_on_from_the_best_texts():
    """Both rows go to children of one text, as in a beam search."""
    engine, rules = NullEngine(network, VOCABULARY), Rules(16, ENDLESS, GREEDY, "slide", 0.0)
    rows = Rows(engine.new_state(3, 16))
    beams = [text(1), text(2, 2), text(3, 3, 3)]
    rows.admit(beams)
    parents = [2, 2, 0]
    children = [
        text(*beams[parent].ids, token) for parent, token in zip(parents, (4, 5, 6), strict=True)
    ]
    rows.reorder(parents, children)
    for child, logits in zip(rows.texts, rows.advance(), strict=True):
        np.testing.assert_array_equal(logits, network(child.ids))
        rules.write(child, logits)
    for child, logits in zip(rows.texts, rows.advance(), strict=True):
        np.testing.assert_array_equal(logits, network(child.ids))


def test_a_fork_goes_on_as_what_it_is_made_of_with_other_random_numbers():
    rules = Rules(16, 6, Sampling(temperature=2.0), "slide", 1e-5)
    rows = Rows(NullEngine(network, VOCABULARY).new_state(4, 16))
    parent = text(1, 2)
    rules.write(parent, rows.admit([parent])[0])
    rules.write(parent, rows.advance()[0])
    same, other = rows.fork(parent, parent.series), rows.fork(parent, series=5)
    while rows.texts:
        for own, logits in zip(list(rows.texts), rows.advance(), strict=True):
            rules.write(own, logits)
        rows.release([own for own in rows.texts if own.finish_reason])
    assert same.ids == parent.ids != other.ids
    assert other.new_ids[:2] == parent.new_ids[:2]
    assert [len(own.new_ids) for own in (parent, same, other)] == [6, 6, 6]


def test_full_windows_of_neighbours_are_fed_again_as_one_batch():
    engine, rules = NullEngine(network, VOCABULARY), Rules(4, ENDLESS, GREEDY, "slide", 1e-5)
    rows = Rows(engine.new_state(4, 4))
    texts = [text(1, 1, 1, 1), text(2, 2), text(3, 3, 3, 3), text(4, 4, 4, 4)]
    for own, logits in zip(texts, rows.admit(texts), strict=True):
        rules.write(own, logits)
    before = engine.steps
    rows.advance()
    assert engine.steps - before == 3  # row 0; rows 2 and 3; the step of all


def test_a_window_that_could_not_be_fed_again_is_fed_the_next_time():
    engine, rules = NullEngine(network, VOCABULARY), Rules(4, ENDLESS, GREEDY, "slide", 1e-5)
    state = engine.new_state(1, 4)
    rows, own = Rows(state), text(1, 2, 3, 4)
    rules.write(own, rows.admit([own])[0])
    run, state._run = state._run, None
    with pytest.raises(TypeError):
        rows.advance()
    state._run = run
    np.testing.assert_array_equal(rows.advance()[0], network(own.ids[2:]))
