"""The TensorRT engine's logic, on a fake device that enforces the vendor's rules."""

import gc
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_tensorrt import fake_plan, one_layer_graph
from tensorrt_machine import LIMITS, VOCAB, Machine, generated, install, network

from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.engines.tensorrt.engine import TensorRTEngine
from edgegpt.runtime.engines.tensorrt.profiles import DECODE, PREFILL, Limits
from edgegpt.runtime.errors import EdgeGPTWarning, EngineError, InvalidInputError
from edgegpt.runtime.generation.prefill import all_logits, last_logits, pad


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_batch_gets_the_tokens_of_the_reference(machine: Machine, cuda_graph: bool) -> None:
    prompts = [[1, 2, 3, 4], [5], [6, 7]]
    expected = generated(NullEngine(network, VOCAB), prompts, 40)  # long enough to slide the window
    assert generated(machine.engine(cuda_graph=cuda_graph), prompts, 40) == expected


def test_drafted_steps_get_the_tokens_of_the_reference(machine: Machine) -> None:
    prompt = [[1, 2, 3, 1, 2, 3, 1, 2]]
    expected = generated(NullEngine(network, VOCAB), prompt, 14)
    assert generated(machine.engine(), prompt, 14, speculate=4) == expected
    assert any(shape[1] > 1 for _, shape in machine.module.executions[1:])


def test_all_logits_are_those_of_the_reference(machine: Machine) -> None:
    ids = np.arange(2 * 20).reshape(2, 20) % VOCAB
    found = all_logits(machine.engine().new_state(2, 24), ids)
    expected = all_logits(NullEngine(network, VOCAB).new_state(2, 24), ids)
    np.testing.assert_array_equal(found, expected)


def test_single_tokens_use_the_decode_profile_and_prompts_the_other(machine: Machine) -> None:
    generated(machine.engine(cuda_graph=False), [[1, 2, 3]], 4)
    assert machine.module.executions == [(PREFILL, (1, 3)), *[(DECODE, (1, 1))] * 3]


def test_a_decode_step_allocates_nothing_and_binds_nothing(machine: Machine) -> None:
    state = machine.engine(cuda_graph=False).new_state(2, 24)
    last_logits(state, *pad([[1, 2], [3]]))
    for step in range(3):
        machine.cuda.calls.clear()
        state.past_len[:] = 2 + step
        state.decode()
        copies = 2 if machine.lowering == "standard" else 4  # inputs, and perhaps two caches back
        assert machine.cuda.calls == ["cudaMemcpyAsync"] * copies
        state.logits()
        assert machine.cuda.calls[copies:] == ["cudaMemcpyAsync", "cudaStreamSynchronize"]


def test_logits_that_nobody_asks_for_are_not_copied(machine: Machine) -> None:
    state = machine.engine().new_state(1, 24)
    state.step(np.array([[1, 2]]), np.array([0]), np.array([[1]]))
    to_device = machine.cuda.calls.count("cudaMemcpyAsync")
    state.logits()
    first = state.logits().copy()
    assert machine.cuda.calls.count("cudaMemcpyAsync") == to_device + 1
    np.testing.assert_array_equal(first[0, 0], network([1, 2]))


def test_steps_without_a_look_at_the_logits_do_not_overwrite_each_other(machine: Machine) -> None:
    state = machine.engine().new_state(1, 24)
    state.step(np.array([[1, 2]]), np.array([0]), np.array([[1]]))
    for token in (3, 4, 5):
        state.next_ids[0, 0], state.past_len[0] = token, token - 1
        state.decode()
    np.testing.assert_array_equal(state.logits()[0, 0], network([1, 2, 3, 4, 5]))


def test_only_tensorrt_is_captured_here_and_after_one_plain_step(machine: Machine) -> None:
    generated(machine.engine(), [[1]], 6)
    launches = machine.cuda.calls.count("cudaGraphLaunch")
    assert launches == (4 if machine.flavour == "tensorrt" else 0)  # of 5 decode steps


def test_without_a_capture_the_text_is_the_same_and_the_user_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt", tmp_path)
    install(monkeypatch, machine.cuda)
    machine.module.refuses_capture = True
    with pytest.warns(EdgeGPTWarning, match="cannot be captured"):
        found = generated(machine.engine(), [[1, 2]], 8)
    assert found == generated(NullEngine(network, VOCAB), [[1, 2]], 8)


def test_everything_is_freed_when_states_and_engine_are_gone(machine: Machine) -> None:
    engine = machine.engine()
    states = [engine.new_state(batch, 24) for batch in (1, 2)]
    all_logits(states[1], np.ones((2, 9), dtype=np.int64))
    states[0].close()
    states.clear()
    gc.collect()
    engine.close()
    cuda = machine.cuda
    assert [cuda.device, cuda.host, cuda.streams, cuda.graphs] == [{}] * 4


def test_a_closed_state_lends_its_buffers_to_the_next_one(machine: Machine) -> None:
    engine = machine.engine()
    first = engine.new_state(2, 24)
    all_logits(first, np.ones((2, 9), dtype=np.int64))
    first.close()
    before = machine.cuda.calls.count("cudaMalloc")
    second = engine.new_state(2, 20)
    assert machine.cuda.calls.count("cudaMalloc") == before
    second.step(np.array([[4], [5]]), np.zeros(2, dtype=np.int64), np.zeros((2, 1), dtype=np.int64))
    np.testing.assert_array_equal(second.logits()[1, 0], network([5]))


def test_two_states_at_once_do_not_share_a_cache(machine: Machine) -> None:
    engine = machine.engine()
    states = [engine.new_state(1, 24) for _ in range(2)]
    for state, token in zip(states, (3, 7), strict=True):
        state.step(np.array([[token]]), np.array([0]), np.array([[0]]))
    for state, token in zip(states, (3, 7), strict=True):
        np.testing.assert_array_equal(state.logits()[0, 0], network([token]))


def test_without_room_an_error_says_so_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt", tmp_path, capacity=3000)
    install(monkeypatch, machine.cuda)
    engine = machine.engine()
    held = engine.new_state(1, 24)
    with pytest.raises(EngineError, match=r"no room for .* MB on the GPU for .*; .* MB are free"):
        engine.new_state(3, 24)
    assert generated(engine, [[1]], 2) == generated(NullEngine(network, VOCAB), [[1]], 2)
    del held
    gc.collect()
    engine.new_state(2, 24)


def test_without_room_for_many_logits_the_state_can_be_used_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt", tmp_path, capacity=1500)
    install(monkeypatch, machine.cuda)
    state = machine.engine().new_state(1, 24)
    with pytest.raises(EngineError, match="for logits"):
        all_logits(state, np.ones((1, 24), dtype=np.int64))
    state.step(np.array([[4]]), np.array([0]), np.array([[0]]))
    np.testing.assert_array_equal(state.logits()[0, 0], network([4]))


@pytest.mark.parametrize("number", [1, 2])
def test_a_context_that_cannot_be_made_leaves_nothing(machine: Machine, number: int) -> None:
    engine = machine.engine()
    machine.module.failing_contexts = {number}
    with pytest.raises(EngineError, match="failed in new_context"):
        engine.new_state(1, 24)
    assert not machine.cuda.device
    engine.new_state(1, 24)


@pytest.mark.parametrize(("batch", "context"), [(4, 24), (1, 25)])
def test_more_than_the_engine_was_built_for_is_refused_with_the_command(
    machine: Machine, batch: int, context: int
) -> None:
    with pytest.raises(InvalidInputError, match=f"--max-batch {batch} --max-context {context}"):
        machine.engine().new_state(batch, context)


def test_a_plan_that_tensorrt_refuses_is_named(machine: Machine) -> None:
    with pytest.raises(EngineError, match=r"plan\.engine: the magic tag is wrong"):
        TensorRTEngine(machine.prepared(b"{"))


def test_a_plan_with_other_inputs_is_refused(machine: Machine) -> None:
    other = fake_plan(one_layer_graph(VOCAB), LIMITS).replace(b"past_v.0", b"past_x.0")
    with pytest.raises(EngineError, match="other inputs and outputs"):
        TensorRTEngine(machine.prepared(other))


def test_a_machine_without_a_gpu_is_told(machine: Machine) -> None:
    machine.cuda.devices = 0
    with pytest.raises(EngineError, match="shows none"):
        machine.engine()


def test_the_device_in_receipts_is_a_file_name(machine: Machine) -> None:
    prepared = machine.prepared()
    info = TensorRTEngine(prepared).info
    assert info.name == machine.module.__name__
    assert info.device == f"Fake GPU_8 plan {prepared.engine.sha256[:8]}"


def test_another_plan_is_another_device_in_receipts(machine: Machine) -> None:
    plans = [fake_plan(one_layer_graph(VOCAB, machine.lowering), Limits(2, n)) for n in (8, 16)]
    devices = {TensorRTEngine(machine.prepared(plan)).info.device for plan in plans}
    assert len(devices) == 2


def test_a_cache_that_is_not_written_in_place_has_a_second_one(machine: Machine) -> None:
    state = machine.engine().new_state(1, 24)
    sizes = [len(block) for block in machine.cuda.device.values()]
    cache = 24 * 2 * 4  # slots, width of a head, bytes; two inputs also have this size
    assert sizes.count(cache) == 2 + (2 if machine.lowering == "standard" else 4)
    state.close()


def test_an_engine_that_does_not_promise_to_write_in_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt", tmp_path)
    install(monkeypatch, machine.cuda)
    plan = json.loads(fake_plan(one_layer_graph(VOCAB), LIMITS))
    plan["in_place"] = False
    with pytest.raises(EngineError, match=r"writes present_k\.0 into None, not past_k\.0"):
        TensorRTEngine(machine.prepared(json.dumps(plan).encode()))


def test_rtx_compiles_for_the_decode_step_only_and_never_in_between(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt-rtx", tmp_path)
    install(monkeypatch, machine.cuda)
    state = machine.engine().new_state(1, 24)
    assert machine.module.strategies == ["NONE", "EAGER"]  # prefill, decode
    state.close()


def test_a_driver_that_is_too_old_is_not_called_no_gpu(machine: Machine) -> None:
    machine.cuda.cudaGetDeviceCount = lambda: (35, None)
    machine.cuda.cudaDriverGetVersion = lambda: (0, 12060)
    with pytest.raises(EngineError, match=r'CUDA up to 12\.6, .* pip install "cuda-bindings<13"'):
        machine.engine()
    machine.cuda.cudaDriverGetVersion = lambda: (0, 0)
    with pytest.raises(EngineError, match="shows none"):
        machine.engine()


def test_what_the_bindings_raise_becomes_an_error_with_tensorrts_words(machine: Machine) -> None:
    class Runtime:
        def __init__(self, logger) -> None:
            logger.log("ERROR", "out of luck")
            raise TypeError("factory function returned nullptr")

    machine.module.Runtime = Runtime
    with pytest.raises(EngineError, match=r"failed in Runtime: factory .* \(out of luck\)"):
        machine.engine()


def test_all_engines_of_a_flavour_share_one_logger(machine: Machine) -> None:
    first, second = machine.engine(), machine.engine()
    assert first.log.logger is second.log.logger
    first.log.logger.log("ERROR", "of both")
    third = machine.engine()
    assert [one.log.last() for one in (first, third)] == ["of both", "it does not say why"]
    third.log.logger.log("ERROR", "cudaError 35")
    assert [one.log.last() for one in (first, third)] == ["of both", "cudaError 35"]


def test_a_state_that_is_closed_at_work_is_waited_for(machine: Machine) -> None:
    engine = machine.engine()
    state = engine.new_state(1, 24)
    state.step(np.array([[1]]), np.array([0]), np.array([[0]]))
    engine.close()  # a closed engine keeps no sessions, and its states go no further
    with pytest.raises(EngineError, match="was closed"):
        state.decode()
    machine.cuda.calls.clear()
    state.close()
    freed = machine.cuda.calls.index("cudaFree")
    assert "cudaStreamSynchronize" in machine.cuda.calls[:freed]


def test_a_capture_is_not_disturbed_by_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt", tmp_path)
    install(monkeypatch, machine.cuda)
    begin, found = machine.cuda.cudaStreamBeginCapture, []

    def noting(*arguments):
        found.append(gc.isenabled())
        return begin(*arguments)

    machine.cuda.cudaStreamBeginCapture = noting
    generated(machine.engine(), [[1]], 4)
    assert found == [False]
    assert gc.isenabled()


def test_a_closed_engine_gives_no_state(machine: Machine) -> None:
    engine = machine.engine()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.new_state(1, 8)


def test_compiled_kernels_are_kept_and_a_damaged_file_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine("tensorrt-rtx", tmp_path)
    install(monkeypatch, machine.cuda)
    machine.engine().close()
    (file,) = tmp_path.glob("*.kernels")
    engine = machine.engine()
    assert engine.plan is not None
    assert engine.plan.runtime_cache.content == b"no kernels+"
    file.write_bytes(file.read_bytes()[:-1])
    engine = machine.engine()
    assert engine.plan is not None
    assert engine.plan.runtime_cache.content == b"no kernels"


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine("tensorrt", tmp_path)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="pip install cuda-bindings"):
        machine.engine()
