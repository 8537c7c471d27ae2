"""Which steps of the CUDA engine are captured as CUDA graphs, and in which threads they run.

They run on host memory in place of a device's: see `host_engine`.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from host_engine import HostEngine, decode, host_engine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.ort import cuda as ort_cuda
from edgegpt.runtime.engines.ort.device_steps import DeviceStep
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


def test_prompts_are_never_captured_and_each_set_of_buffers_has_a_graph_of_its_own(bundle, engine):
    one, two = engine.new_state(1, BLOCK), engine.new_state(1, BLOCK)
    for state in (one, two):
        state.step(np.array([[1, 2]]), np.array([0]), np.array([[1]]))
        decode(state, 2)
        decode(state, 3)
    assert engine.memory.graph_ids == ["-1", "1", "1", "-1", "2", "2"]


def test_without_cuda_graphs_no_run_has_a_graph(bundle):
    engine = host_engine(bundle, cuda_graph=False)
    decode(engine.new_state(1, BLOCK), 0)
    assert engine.memory.graph_ids == [None]
    engine.close()


def test_steps_of_all_other_threads_are_run_by_a_single_one(engine, monkeypatch):
    ran: list[int] = []
    original = DeviceStep._run

    def noting(step) -> None:
        ran.append(threading.get_ident())
        original(step)

    monkeypatch.setattr(DeviceStep, "_run", noting)

    def write() -> None:
        with engine.new_state(1, BLOCK) as state:
            for past in range(3):
                decode(state, past)

    write()
    assert set(ran) == {threading.get_ident()}
    ran.clear()
    for _ in range(3):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(set(ran)) == 1
    assert threading.get_ident() not in ran


def test_an_error_in_another_thread_reaches_it(engine, monkeypatch):
    def fail(*_: object) -> None:
        raise EngineError("CUDA failure 700")

    state, found = engine.new_state(1, BLOCK), []
    monkeypatch.setattr(engine.memory, "run", fail)

    def write() -> None:
        try:
            decode(state, 0)
        except EngineError as error:
            found.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert found == ["CUDA failure 700"]


def test_where_a_replay_would_be_wrong_steps_run_without_and_it_is_told(bundle, monkeypatch):
    monkeypatch.setattr(ort_cuda, "replays_rightly", lambda *_: False)
    with pytest.warns(EdgeGPTWarning, match=r'wrongly.*pip install "onnxruntime-gpu>=1\.31"'):
        engine = host_engine(bundle)
    decode(engine.new_state(1, BLOCK), 0)
    assert engine.memory.graph_ids == [None]
    engine.close()
    host_engine(bundle, cuda_graph=False).close()  # no warning if no CUDA graph was wanted


def test_texts_of_fewer_rows_use_the_buffers_of_more_and_have_a_graph_each(engine):
    for _ in range(3):
        for rows in (4, 1, 3):
            with engine.new_state(rows, BLOCK) as state:
                decode(state, 0)
                assert state.logits().shape[0] == rows
    assert engine.captured == 3
    assert len(engine.kept) == 1
    with engine.new_state(2, BLOCK), engine.new_state(1, BLOCK):  # the second gets new buffers
        assert engine.captured == 5


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


def test_after_the_most_graphs_steps_run_without(engine, monkeypatch):
    monkeypatch.setattr(ort_cuda, "MOST_GRAPHS", 1)
    for context in (8, 9):
        decode(engine.new_state(1, context), 0)
    assert engine.memory.graph_ids == ["1", "-1"]


def test_the_longest_length_that_operators_are_told_is_the_context_at_every_step(engine):
    state = engine.new_state(2, BLOCK)
    for past in range(3):
        decode(state, past)
        assert state.single.inputs.total[0] == BLOCK
        assert state.single.inputs.seqlens_k.tolist() == [past, past]


def test_a_number_of_rows_that_lasts_for_a_few_tokens_takes_no_graph(engine):
    state = engine.new_state(3, BLOCK)
    for past, count in enumerate((3, 3, 2, 2, 1, *[2] * 4)):
        state.past_len[:] = past
        state.decode(count)
    assert engine.memory.graph_ids == ["1", "1", "-1", "-1", "-1", "-1", "-1", "2", "2"]
