"""Rows of the TensorRT engine: they join, fork, leave and change places on the device."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedules import Schedule, play, play_alone, schedules
from tensorrt_machine import LIMITS, VOCAB, Machine, install, network

from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.engines.tensorrt import session
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.prefill import last_logits, pad
from edgegpt.runtime.generation.sampling import Sampling


@given(schedule=schedules(VOCAB), capacity=st.integers(1, 3))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_text_that_joins_forks_slides_and_leaves_is_what_it_is_alone(
    machine: Machine, schedule: Schedule, capacity: int
) -> None:
    rules = Rules(LIMITS.max_context, 10**6, Sampling(), "slide", 0.0)
    with machine.engine().new_state(capacity, LIMITS.max_context) as state:
        lives = play(state, schedule, rules)
    for life in lives:
        if life.logits:
            alone = play_alone(NullEngine(network, VOCAB).new_state(1, 24), life, rules)
            np.testing.assert_array_equal(life.logits, alone.logits)


def test_rows_change_places_on_the_device(machine: Machine) -> None:
    state = machine.engine().new_state(3, 24)
    last_logits(state, *pad([[1, 2], [3, 4], [5, 6]]))
    state.reorder([1, 2, 0], 2)
    state.next_ids[:], state.past_len[:] = 7, 2
    state.decode()
    expected = [network([3, 4, 7]), network([5, 6, 7]), network([1, 2, 7])]
    np.testing.assert_array_equal(state.logits()[:, 0], expected)


def test_only_the_slots_behind_equal_ones_are_copied_on_the_device(machine: Machine) -> None:
    state = machine.engine().new_state(2, 24)
    last_logits(state, *pad([[1, 2, 3], [4, 5, 6]]))
    state.reorder([0, 0], 3, since=2)
    state.next_ids[:], state.past_len[:] = 7, 3
    state.decode()
    expected = [network([1, 2, 3, 7]), network([4, 5, 3, 7])]
    np.testing.assert_array_equal(state.logits()[:, 0], expected)


def test_fewer_rows_get_a_captured_step_of_their_own_when_they_are_there_to_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "PATIENCE", 3)
    machine = Machine("tensorrt", tmp_path)
    install(monkeypatch, machine.cuda)
    state = machine.engine().new_state(3, 24)
    last_logits(state, *pad([[1], [2], [3]]))
    state.next_ids[:, 0], state.past_len[:] = [4, 5, 6], 1
    for count, launched in ((3, 0), (3, 1), (2, 2), (2, 3), (2, 3), (2, 4), (3, 5)):
        state.decode(count)
        expected = [network([row + 1, row + 4]) for row in range(count)]
        np.testing.assert_array_equal(state.logits()[:, 0], expected)
        assert machine.cuda.calls.count("cudaGraphLaunch") == launched
        if count == 2:  # the step may have overwritten the free row
            last_logits(state, *pad([[3]]), first=2)


def test_without_room_for_another_context_decoding_goes_on_with_free_rows(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE", 2)
    state = machine.engine().new_state(3, 24)
    machine.module.failing_contexts = set(range(3, 9))
    last_logits(state, *pad([[1], [2], [3]]))
    state.next_ids[:, 0], state.past_len[:] = [4, 5, 6], 1
    for _ in range(5):
        state.decode(1)
        np.testing.assert_array_equal(state.logits()[:, 0], [network([1, 4])])
