"""Feeding prompts, whole and in pieces, on the null engine, and the steps that a state refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegpt.runtime.engines.null import NullEngine, NullState
from edgegpt.runtime.errors import InvalidInputError
from edgegpt.runtime.generation.prefill import last_logits, logit_pieces, pad

VOCABULARY = 7

prompt_ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=14)


def network(visible) -> np.ndarray:
    """Return logits that every visible id and every position changes."""
    powers = np.arange(1, VOCABULARY + 1) / 3
    position = np.arange(1, len(visible) + 1)[:, None]
    return np.sin((np.array(visible)[:, None] + 2) * position * powers).sum(
        axis=0, dtype=np.float32
    )


def spoiling_state(batch: int, context: int) -> NullState:
    """Return a state whose next step overwrites the logits, as every engine's may."""
    state = NullEngine(network, VOCABULARY).new_state(batch, context)
    run = state._run

    def spoil_and_run(*inputs):
        state.result[...] = np.nan
        run(*inputs)

    state._run = spoil_and_run
    return state


@given(st.lists(prompt_ids, min_size=1, max_size=4), st.integers(1, 15))
@settings(deadline=None)
def test_prefill_in_chunks_gives_what_one_piece_gives(rows, chunk):
    ids, lengths = pad(rows)
    state = spoiling_state(len(rows), ids.shape[1] + 1)
    found = last_logits(state, ids, lengths, chunk)
    np.testing.assert_array_equal(found, [network(row) for row in rows])
    state.step(np.full((len(rows), 1), 4), lengths, np.zeros((len(rows), 1), dtype=np.int64))
    np.testing.assert_array_equal(state.logits()[:, 0], [network([*row, 4]) for row in rows])


@given(prompt_ids, st.lists(st.integers(1, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_all_logits_in_pieces_are_those_of_each_prefix(row, sizes):
    sizes = [*sizes, len(row)]
    state = spoiling_state(2, 14)
    pieces = logit_pieces(state, np.array([row, row[::-1]]), take(sizes, len(row)))
    found = np.concatenate([logits.copy() for _, logits in pieces], axis=1)
    for index, ids in enumerate((row, row[::-1])):
        expected = [network(ids[: end + 1]) for end in range(len(ids))]
        np.testing.assert_array_equal(found[index], expected)


def take(sizes: list[int], total: int) -> list[int]:
    """Return the first sizes, with the last one cut so that they add up to `total`."""
    ends = np.minimum(np.cumsum(sizes), total)
    return [int(size) for size in np.diff(ends, prepend=0) if size]


@pytest.mark.parametrize(
    ("length", "piece", "fed"),
    [(8, 8, [8]), (9, 8, [5, 4]), (21, 8, [7, 7, 7]), (22, 8, [8, 8, 6]), (3, 1, [1, 1, 1])],
)
def test_a_prompt_is_fed_in_even_pieces_that_suit_the_state(length, piece, fed):
    state, steps = NullEngine(network, VOCABULARY).new_state(1, length), []
    run, state.prompt_piece = state._run, piece

    def note_and_run(ids, *rest):
        steps.append(ids.shape[1])
        run(ids, *rest)

    state._run = note_and_run
    ids, lengths = pad([[number % VOCABULARY for number in range(length)]])
    np.testing.assert_array_equal(last_logits(state, ids, lengths), [network(ids[0])])
    assert steps == fed


def test_rows_are_padded_on_the_right():
    ids, lengths = pad([[1, 2, 3], [4]])
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("ids_shape", "past_len", "positions_shape", "message"),
    [
        ((2, 4), [3, 0], (2, 1), "4 new tokens after 3 do not fit the cache of 6"),
        ((2, 7), [0, 0], (2, 1), "7 new tokens after 0 do not fit"),
        ((2, 1), [0, 6], (2, 1), "1 new tokens after 6 do not fit"),
        ((2, 1), [-1, 0], (2, 1), "fit|negative"),
        ((3, 1), [0, 0, 0], (3, 1), "3 rows, the state 2"),
        ((2, 1), [0], (2, 1), "rows"),
        ((2, 1), [0, 0], (1, 1), "rows"),
    ],
)
def test_a_step_that_does_not_fit_the_state_is_refused(
    ids_shape, past_len, positions_shape, message
):
    engine = NullEngine(network, VOCABULARY)
    state = engine.new_state(2, 6)
    with pytest.raises(InvalidInputError, match=message):
        state.step(
            np.zeros(ids_shape, dtype=np.int64),
            np.array(past_len),
            np.zeros(positions_shape, dtype=np.int64),
        )
    assert engine.steps == 0


def test_a_step_that_just_fits_is_run():
    state = NullEngine(network, VOCABULARY).new_state(2, 6)
    three = np.ones((2, 3), dtype=np.int64)
    for past_len in ([0, 0], [3, 1]):
        state.step(three, np.array(past_len), np.array([[0], [2]]))
    np.testing.assert_array_equal(state.logits()[:, 0], [network([1] * 4)] * 2)
