"""The CUDA engine's logic, on host memory in place of a device's: see `host_engine`.

Tests that need a GPU are in tests/gpu.
"""

import gc
from dataclasses import replace

import numpy as np
import pytest
from host_engine import decode, host_engine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort import cuda as ort_cuda
from edgegpt.runtime.engines.ort import device_steps
from edgegpt.runtime.engines.ort.cuda import CudaState
from edgegpt.runtime.engines.ort.device_steps import DeviceStep
from edgegpt.runtime.engines.ort.picker import EXTRAS, is_worthwhile
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.proof.receipt_store import keep, missing_proof
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify_engine

VOCABULARY, BLOCK = 34, 32
PROMPT = "The wind"


@pytest.fixture(scope="module")
def bundle(small_bundle) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.fixture
def engine(bundle):
    opened = host_engine(bundle)
    yield opened
    opened.close()


@pytest.fixture
def no_small_vocabularies(monkeypatch):
    """Let candidates be selected even where copying all logits would be cheaper."""
    monkeypatch.setattr(device_steps, "is_worthwhile", lambda count, size: count < size)


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("lowering", ["ort", "standard"])
def test_every_kind_of_step_gives_the_cpu_engines_logits(bundle, lowering, cuda_graph):
    engines = [
        host_engine(bundle, lowering, cuda_graph=cuda_graph),
        open_engine(bundle, EngineOptions("cpu", threads=1), lowering=lowering),
    ]
    states, past = [engine.new_state(2, BLOCK) for engine in engines], np.zeros(2, dtype=np.int64)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, 20))
    for length in (5, 1, 3, 1):  # a prompt, and pieces after it
        positions = np.tile(np.arange(length), (2, 1))
        for state in states:
            state.step(ids[:, :length], past, positions)
        np.testing.assert_array_equal(*(state.logits() for state in states))
        past += length
    for step in range(6):
        for state in states:
            decode(state, past + step, step)
        np.testing.assert_array_equal(*(state.logits() for state in states))


def test_the_golden_vectors_pass(bundle, engine):
    receipt = verify_engine(bundle, engine)
    assert receipt.passed
    (picked,) = [check for check in receipt.checks if check.name == "candidates"]
    assert picked.difference.positions > 10


@pytest.mark.parametrize("change", ["ids", "logits", "lowest", "finite"])
def test_candidates_that_are_not_the_best_fail_the_proof(bundle, engine, monkeypatch, change):
    wrong = {
        "ids": lambda found: found.ids[::-1].copy(),
        "logits": lambda found: found.logits + np.float32(1),
        "lowest": lambda found: found.lowest - 1,
        "finite": lambda found: not found.finite,
    }[change]
    topk = CudaState.topk

    def damaged(state, count):
        found = topk(state, count)
        return [[replace(best, **{change: wrong(best)}) for best in row] for row in found]

    monkeypatch.setattr(CudaState, "topk", damaged)
    receipt = verify_engine(bundle, engine)
    assert [check.name for check in receipt.checks if not check.passed] == ["candidates"]


def test_the_cache_is_one_place_before_and_after_a_step_and_never_moves(bundle, monkeypatch):
    bound = []

    class Binding:
        def __init__(self, session):
            self.inner = session.binding_of_onnxruntime()
            self._iobinding, self._session = self.inner._iobinding, self.inner._session

        def bind_input(self, *place):
            bound.append(("in", *place))
            self.inner.bind_input(*place)

        def bind_output(self, *place):
            bound.append(("out", *place))
            self.inner.bind_output(*place)

    engine = host_engine(bundle)
    engine.session.binding_of_onnxruntime = engine.session.io_binding
    monkeypatch.setattr(engine.session, "io_binding", lambda: Binding(engine.session))
    state = engine.new_state(2, BLOCK)
    for past in range(3):
        decode(state, past)
    places = {(way, name): place for way, name, *place in bound}
    assert len(places) == len(bound)  # each port of the decode step is bound once
    caches = engine.graph.caches()
    for port in caches:
        assert places["in", port.name] == places["out", port.present]
    assert len({places["in", port.name][-1] for port in caches}) == len(caches)
    engine.close()


def test_a_decode_step_allocates_nothing_and_copies_candidates_not_logits(
    engine, no_small_vocabularies
):
    state, memory = engine.new_state(3, BLOCK), engine.memory
    decode(state, 0)
    state.topk(5)
    allocated, sent, fetched = memory.allocated, memory.to_device, memory.to_host
    for past in range(1, 9):
        decode(state, past)
        state.topk(5)
    assert memory.allocated == allocated
    assert memory.to_host - fetched == 8 * 3 * (2 * 5 + EXTRAS) * 4
    assert memory.to_device - sent == 8 * state.single.host.nbytes
    assert state.single.host.nbytes < 2048


def test_logits_are_copied_once_and_only_when_asked_for(engine):
    state, memory = engine.new_state(2, BLOCK), engine.memory
    decode(state, 0)
    assert memory.to_host == 0
    first = state.logits()
    assert state.logits() is first
    assert memory.to_host == 2 * VOCABULARY * 4
    decode(state, 1)
    assert not np.array_equal(state.logits(), first)


def test_topk_are_the_best_logits_of_every_row_and_position(engine, no_small_vocabularies):
    state = engine.new_state(2, BLOCK)
    ids = np.arange(8).reshape(2, 4)
    state.step(ids, np.zeros(2, dtype=np.int64), np.array([[0, 3], [1, 2]]))
    found = state.topk(6)
    logits = state.logits()
    for row in range(2):
        for place in range(2):
            best, own = found[row][place], logits[row, place]
            assert sorted(best.ids) == sorted(own.argsort()[-6:])
            np.testing.assert_array_equal(best.logits, own[best.ids])
            assert (best.lowest, best.finite, best.vocab_size) == (own.min(), True, VOCABULARY)
            np.testing.assert_array_equal(best.fetch(), own)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_shows_in_the_candidates(engine, no_small_vocabularies, bad):
    state = engine.new_state(1, BLOCK)
    decode(state, 0)
    logits = state.logits().copy()
    logits[0, 0, 7] = bad
    state.single.result.write(logits.view(np.uint8).reshape(-1))
    state.single.fetched = None
    assert state.topk(5)[0][0].finite is False


def test_of_a_small_vocabulary_all_logits_are_copied(engine):
    state = engine.new_state(1, BLOCK)
    decode(state, 0)
    assert state.topk(16) is None
    assert is_worthwhile(16, VOCABULARY + 1)
    assert not is_worthwhile(16, 2**24 + 1)  # float32 cannot represent all ids


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.9, "top_k": 4, "seed": 3},
        {"temperature": 0.9, "seed": 3},
        {"repetition_penalty": 1.3},
        {"speculate": 5},
    ],
)
def test_the_text_is_the_cpu_engines(bundle, engine, no_small_vocabularies, monkeypatch, settings):
    monkeypatch.setattr("edgegpt.runtime.generation.sampling.SPARE", 8)
    found = LanguageModel(bundle, engine).generate(PROMPT, max_new_tokens=60, **settings)
    with LanguageModel(bundle, open_engine(bundle, EngineOptions("cpu", threads=1))) as cpu:
        expected = cpu.generate(PROMPT, max_new_tokens=60, **settings)
    assert (found.token_ids, found.first_near_tie) == (
        expected.token_ids,
        expected.first_near_tie,
    )


def test_greedy_text_fetches_the_logits_of_the_prompt_alone(
    bundle, engine, no_small_vocabularies, monkeypatch
):
    monkeypatch.setattr("edgegpt.runtime.generation.sampling.SPARE", 8)
    fetches = []
    honest = DeviceStep.logits
    monkeypatch.setattr(
        DeviceStep, "logits", lambda step: fetches.append(step.length) or honest(step)
    )
    model = LanguageModel(bundle, engine)
    model.generate(PROMPT, max_new_tokens=20)
    assert fetches == [len(model.encode_prompt(PROMPT))]


def test_the_buffers_of_a_finished_text_serve_the_next_one(bundle, engine):
    model = LanguageModel(bundle, engine)
    first = model.generate(PROMPT, max_new_tokens=40).token_ids
    allocated = engine.memory.allocated
    model.generate("No answer", max_new_tokens=3)  # leaves its content in the cache
    again = model.generate(PROMPT, max_new_tokens=40).token_ids
    assert again == first
    assert engine.captured == 1
    assert engine.memory.allocated - allocated < 3 * allocated / 4  # steps of other prompt lengths


def test_closing_a_stream_midway_gives_its_buffers_back(bundle, engine):
    stream = LanguageModel(bundle, engine).stream(PROMPT, max_new_tokens=30)
    next(stream)
    assert engine.kept == []
    stream.close()
    assert len(engine.kept) == 1
    with pytest.raises(StopIteration):
        next(stream)


def test_buffers_of_a_text_that_failed_are_dropped(bundle, engine, monkeypatch):
    monkeypatch.setattr(DeviceStep, "logits", lambda step: np.full(step.where.shape, np.nan))
    with pytest.raises(Exception, match="NaN"):
        LanguageModel(bundle, engine).generate(PROMPT)
    gc.collect()
    assert engine.kept == []


def test_only_a_few_sets_of_buffers_wait(engine):
    states = [engine.new_state(1, 8) for _ in range(7)]
    for state in states:
        state.close()
    assert len(engine.kept) == ort_cuda.KEPT


def test_out_of_memory_says_what_was_asked_and_the_engine_goes_on(bundle, engine):
    engine.memory.room = 10_000
    with pytest.raises(EngineError, match=r"out of memory on cpu: .* cache \(past_k\.0 of 64 rows"):
        engine.new_state(64, BLOCK)
    engine.memory.room = 2**40
    assert LanguageModel(bundle, engine).generate(PROMPT, max_new_tokens=3).token_ids


def test_waiting_buffers_make_room_for_those_that_are_needed(engine):
    engine.new_state(4, BLOCK).close()
    needed = engine.memory.allocated
    engine.memory.room = needed // 2

    class Full(list):
        """The memory is free again when the waiting buffers are dropped."""

        def __del__(self):
            engine.memory.room = 2 * needed

    engine.kept = Full(engine.kept)
    engine.new_state(5, BLOCK)
    assert list(engine.kept) == []


def test_an_error_while_running_is_an_engine_error(engine, monkeypatch):
    state = engine.new_state(1, BLOCK)

    def fail(*_):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(engine.session, "run_with_iobinding", fail)
    with pytest.raises(EngineError, match="illegal memory access"):
        decode(state, 0)


def test_a_closed_engine_makes_no_states_and_keeps_no_buffers(engine):
    state = engine.new_state(1, BLOCK)
    engine.close()
    with pytest.raises(EngineError, match="the model was closed"):
        decode(state, 0)
    state.close()
    assert engine.kept == []
    with pytest.raises(EngineError, match="the model was closed"):
        engine.new_state(1, BLOCK)


def test_a_tf32_engine_has_a_device_of_its_own(bundle):
    exact, rounding = host_engine(bundle), host_engine(bundle, tf32=True)
    assert exact.info.device != rounding.info.device
    assert (exact.info.tf32, rounding.info.tf32) == (False, True)
    for engine in (exact, rounding):
        engine.close()


def test_a_receipt_of_a_tf32_engine_has_its_own_tolerance_and_vouches_for_no_other(bundle):
    exact, rounding = host_engine(bundle, "standard"), host_engine(bundle, "standard", tf32=True)
    receipt = verify_engine(bundle, rounding)
    assert {check.tolerance for check in receipt.checks} == {0.0, TOLERANCES["tf32"]}
    assert {check.tolerance for check in verify_engine(bundle, exact).checks} == {0.0, 1e-5}
    keep(receipt)
    assert missing_proof(bundle, receipt.graph, rounding.info) is None
    assert "not verified on" in missing_proof(bundle, receipt.graph, exact.info)
    assert LanguageModel(bundle, rounding).tolerance > LanguageModel(bundle, exact).tolerance
    for engine in (exact, rounding):
        engine.close()
