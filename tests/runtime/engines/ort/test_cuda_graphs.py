"""Which steps of the CUDA engine are captured as CUDA graphs.

They run on host memory in place of a device's: see `host_engine`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from host_engine import HostEngine, decode, host_engine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.ort import cuda as ort_cuda
from edgegpt.runtime.engines.ort.device_steps import (
    FIRST_RUNS,
    MOST_FAILURES,
    MOST_STEPS,
    PLAIN_RUNS,
)
from edgegpt.runtime.errors import EdgeGPTWarning, EngineError
from edgegpt.runtime.language_model import LanguageModel

BLOCK = 32


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[HostEngine]:
    opened = host_engine(bundle)
    yield opened
    opened.close()


PLAIN = ["run"] * FIRST_RUNS


def test_prompts_are_never_captured_and_each_set_of_buffers_has_a_graph_of_its_own(bundle, engine):
    one, two = engine.new_state(1, BLOCK), engine.new_state(1, BLOCK)
    for state in (one, two):
        state.step(np.array([[1, 2]]), np.array([0]), np.array([[1]]))
        for past in range(2, 6):
            decode(state, past)
    assert engine.memory.ran == ["run", *PLAIN, "record", "launch", "launch"] * 2


def test_a_prompt_of_one_token_is_never_captured_since_its_longest_length_is_its_own(engine):
    state = engine.new_state(1, BLOCK)
    for past in range(10):
        state.step(np.array([[1]]), np.array([past]), np.array([[0]]))
    assert engine.memory.ran == ["run"] * 10


def test_without_cuda_graphs_every_step_is_a_run(bundle):
    engine = host_engine(bundle, cuda_graph=False)
    state = engine.new_state(1, BLOCK)
    for past in range(5):
        decode(state, past)
    assert engine.memory.ran == ["run"] * 5
    engine.close()


def test_what_a_launch_computes_is_what_a_run_computes(bundle, engine):
    plain = host_engine(bundle, cuda_graph=False)
    states = [each.new_state(2, BLOCK) for each in (engine, plain)]
    for past in range(8):
        for state in states:
            decode(state, past, token=past)
        np.testing.assert_array_equal(*(state.logits() for state in states))
    assert "launch" in engine.memory.ran
    plain.close()


def test_a_capture_that_fails_is_tried_again_and_given_up_with_a_warning(engine, monkeypatch):
    honest, failures = engine.memory.record, []

    def fail(work):
        failures.append(work)
        raise EngineError("cudaStreamEndCapture: operation not permitted")

    monkeypatch.setattr(engine.memory, "record", fail)
    state, last = engine.new_state(1, BLOCK), FIRST_RUNS + (MOST_FAILURES - 1) * PLAIN_RUNS
    for past in range(last):
        decode(state, past)
    assert len(failures) == MOST_FAILURES - 1
    with pytest.warns(EdgeGPTWarning, match="no CUDA graph, cudaStreamEndCapture"):
        decode(state, last)
    monkeypatch.setattr(engine.memory, "record", honest)
    for past in range(last + 1, last + 10):
        decode(state, past)
    assert set(engine.memory.ran) == {"run"}


def test_a_capture_that_was_spoilt_once_succeeds_later(engine, monkeypatch):
    honest = engine.memory.record

    def fail_once(work):
        monkeypatch.setattr(engine.memory, "record", honest)
        raise EngineError("cudaStreamEndCapture: operation failed due to a previous error")

    monkeypatch.setattr(engine.memory, "record", fail_once)
    state = engine.new_state(1, BLOCK)
    for past in range(FIRST_RUNS + PLAIN_RUNS + 2):
        decode(state, past)
    plain = ["run"] * (FIRST_RUNS + PLAIN_RUNS)
    assert engine.memory.ran == [*plain, "record", "launch", "launch"]


def test_steps_for_many_numbers_of_rows_are_not_all_kept(engine):
    state = engine.new_state(MOST_STEPS + 4, BLOCK)
    for count in range(MOST_STEPS + 4, 0, -1):
        state.past_len[:] = 0
        state.decode(count)
    assert len(state.buffers.singles) == MOST_STEPS
    assert MOST_STEPS + 4 in state.buffers.singles


def test_where_a_replay_would_be_wrong_steps_run_without_and_it_is_told(bundle, monkeypatch):
    monkeypatch.setattr(ort_cuda, "replays_rightly", lambda *_: False)
    with pytest.warns(EdgeGPTWarning, match=r'wrongly.*pip install "onnxruntime-gpu>=1\.31"'):
        engine = host_engine(bundle)
    state = engine.new_state(1, BLOCK)
    for past in range(5):
        decode(state, past)
    assert engine.memory.ran == ["run"] * 5
    engine.close()
    host_engine(bundle, cuda_graph=False).close()  # no warning if no CUDA graph was wanted


def test_texts_of_fewer_rows_use_the_buffers_of_more_and_have_a_graph_each(engine):
    for _ in range(4):
        for rows in (4, 1, 3):
            with engine.new_state(rows, BLOCK) as state:
                decode(state, 0)
                assert state.logits().shape[0] == rows
    assert engine.memory.ran.count("record") == 3
    assert len(engine.kept) == 1
    with engine.new_state(2, BLOCK), engine.new_state(1, BLOCK) as state:
        assert state.buffers.rows == 1  # the second gets new buffers


@pytest.mark.parametrize("lowering", ["ort", "standard"])
def test_a_text_in_the_buffers_of_several_is_the_text_in_its_own(bundle, lowering):
    texts = []
    for first in ([], ["The wind", "No answer", "quick"]):
        engine = host_engine(bundle, lowering)
        model = LanguageModel(bundle, engine)
        if first:
            model.generate(first, max_new_tokens=30)
        texts.append(model.generate("Who goes", max_new_tokens=40).token_ids)
        assert [buffers.rows for buffers in engine.kept] == [max(len(first), 1)]
        engine.close()
    assert texts[0] == texts[1]


def test_the_longest_length_that_operators_are_told_is_the_context_at_every_step(engine):
    state = engine.new_state(2, BLOCK)
    for past in range(3):
        decode(state, past)
        assert state.single.inputs.total[0] == BLOCK
        assert state.single.inputs.seqlens_k.tolist() == [past, past]


def test_a_number_of_rows_that_lasts_for_a_few_tokens_takes_no_graph(engine):
    state = engine.new_state(3, BLOCK)
    for past, count in enumerate((3, 3, 3, 2, 2, 1, *[2] * 4)):
        state.past_len[:] = past
        state.decode(count)
    graphed = ["record", "launch"]
    assert engine.memory.ran == [*PLAIN, *graphed, *["run"] * 5, *graphed, "launch"]
