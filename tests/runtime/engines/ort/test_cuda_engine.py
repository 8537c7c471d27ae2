"""The CUDA engine's logic, on host memory in place of a device's: see `host_engine`.

Tests that need a GPU are in tests/gpu.
"""

import gc

import numpy as np
import pytest
from host_engine import decode, host_engine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import PREFILL_CHUNK
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort import cuda as ort_cuda
from edgegpt.runtime.engines.ort.device_steps import DeviceStep
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.generation.prefill import last_logits
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
    assert verify_engine(bundle, engine).passed
    assert "launch" in engine.memory.ran


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


def test_a_decode_step_allocates_nothing_and_copies_its_inputs_and_logits(engine):
    state, memory = engine.new_state(3, BLOCK), engine.memory
    decode(state, 0)
    allocated, sent, fetched = memory.allocated, memory.to_device, memory.to_host
    for past in range(1, 9):
        decode(state, past)
        state.logits()
    assert memory.allocated == allocated
    assert memory.to_host - fetched == 8 * 3 * VOCABULARY * 4
    assert memory.to_device - sent == 8 * state.single.host.nbytes
    assert state.single.host.nbytes < 2048


def test_a_prompt_that_has_no_room_as_one_piece_is_fed_in_small_ones(engine, monkeypatch):
    monkeypatch.setattr("edgegpt.runtime.generation.prefill.PREFILL_CHUNK", 4)
    ids, lengths = np.arange(10)[None] + 1, np.array([10])
    state, honest, lengths_run = engine.new_state(1, BLOCK), engine.memory.run, []
    expected = last_logits(state, ids, lengths)

    def small_only(session, binding, options):
        if state.bound and next(reversed(state.bound)).length > 4:
            raise EngineError("out of memory on cuda")
        honest(session, binding, options)
        lengths_run.append(next(reversed(state.bound)).length)

    monkeypatch.setattr(engine.memory, "run", small_only)
    np.testing.assert_allclose(last_logits(state, ids, lengths), expected, atol=1e-5)
    assert sum(lengths_run) == 10
    assert max(lengths_run) <= 4


def test_after_the_longest_prompt_shorter_ones_allocate_nothing(engine):
    state, start = engine.new_state(1, BLOCK), np.zeros(1, dtype=np.int64)
    last = np.zeros((1, 1), dtype=np.int64)
    state.step(np.ones((1, 20), dtype=np.int64), start, last)
    allocated = engine.memory.allocated
    for length in range(2, 20):
        state.step(np.ones((1, length), dtype=np.int64), start, last)
    assert engine.memory.allocated == allocated


def test_rows_that_run_one_by_one_keep_each_its_logits(engine, bundle):
    cpu = open_engine(bundle, EngineOptions("cpu", threads=1))
    states, past = [each.new_state(2, BLOCK) for each in (engine, cpu)], np.array([3, 3])
    ids = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    for state in states:
        state.step(ids[:, :3], np.zeros(2, dtype=np.int64), np.array([[2], [2]]))
        state.step(ids[:, 3:], past, np.array([[1], [1]]))
    np.testing.assert_array_equal(*(state.logits() for state in states))
    cpu.close()


@pytest.mark.parametrize(("rows", "piece"), [(1, 2048), (2, 1024), (64, 512)])
def test_a_prompt_is_fed_in_few_pieces(engine, bundle, rows, piece):
    assert engine.new_state(rows, BLOCK).prompt_piece == piece
    standard = host_engine(bundle, "standard")
    assert standard.new_state(rows, BLOCK).prompt_piece == PREFILL_CHUNK
    standard.close()


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
def test_the_text_is_the_cpu_engines(bundle, engine, settings):
    found = LanguageModel(bundle, engine).generate(PROMPT, max_new_tokens=60, **settings)
    with LanguageModel(bundle, open_engine(bundle, EngineOptions("cpu", threads=1))) as cpu:
        expected = cpu.generate(PROMPT, max_new_tokens=60, **settings)
    assert (found.token_ids, found.first_near_tie) == (
        expected.token_ids,
        expected.first_near_tie,
    )


def test_the_buffers_of_a_finished_text_serve_the_next_one(bundle, engine):
    model = LanguageModel(bundle, engine)
    first = model.generate(PROMPT, max_new_tokens=40).token_ids
    allocated = engine.memory.allocated
    model.generate("No answer", max_new_tokens=3)  # leaves its content in the cache
    again = model.generate(PROMPT, max_new_tokens=40).token_ids
    assert again == first
    assert engine.memory.ran.count("record") == 1
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

    engine.new_state(5, BLOCK)
    assert engine.kept == []


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
    assert LanguageModel(bundle, rounding).tolerance == TOLERANCES["tf32"]
    keep(receipt)
    assert missing_proof(bundle, receipt.graph, rounding.info) is None
    assert "not verified on" in missing_proof(bundle, receipt.graph, exact.info)
    for engine in (exact, rounding):
        engine.close()
