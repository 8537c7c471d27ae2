"""The bench on a fake GPU: its own clock, its copy, its memory, and the energy.

The fake device does each piece of work in `WORK_S` of its own time, when the host waits for it.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_cuda import WORK_S, FakeCuda
from fake_tensorrt import fake_module, fake_plan, one_layer_graph
from host_engine import CountingMemory, HostBlock, HostEngine

from edgegpt.runtime.bench import BenchResult, Plan, measure, repeat
from edgegpt.runtime.bench import gpu as gpu_module
from edgegpt.runtime.bench.energy import Meter
from edgegpt.runtime.bench.gpu import Gpu
from edgegpt.runtime.bench.words import explanation, facts
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.cuda.event_clock import EventClock
from edgegpt.runtime.cuda.memory import Cuda
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cuda_provider import provider
from edgegpt.runtime.engines.tensorrt.engine import TensorRTEngine
from edgegpt.runtime.engines.tensorrt.flavour import Flavour
from edgegpt.runtime.engines.tensorrt.prepare import Prepared
from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.store import Identity, StoredEngine
from edgegpt.runtime.errors import EngineError, InvalidInputError
from edgegpt.runtime.proof.auto import Settled

VOCAB, LIMITS = 34, Limits(max_batch=4, max_context=32)
MEASURE = sys.modules[measure.__module__]  # the package's `measure` is the function
UNPROVED = "ignore:.*is not verified on:edgegpt.runtime.errors.EdgeGPTWarning"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake, bindings = FakeCuda(), ModuleType("cuda.bindings")
    bindings.runtime = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # pretend that it is not installed
    monkeypatch.setattr(gpu_module, "COPY_BYTES", 4096)
    return fake


@pytest.fixture
def gpu_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda, small_bundle: Path
) -> Path:
    """A bundle that the bench opens with TensorRT on the fake device."""
    module = fake_module(
        "tensorrt", "10.16.2", cuda, lambda ids: np.eye(VOCAB, dtype=np.float32)[len(ids)]
    )
    graph = one_layer_graph(VOCAB)
    identity = Identity("b", graph.name, "tensorrt", "1", "8.9", "", "", 4, 32)
    stored = StoredEngine(identity, tmp_path / "plan.engine", fake_plan(graph, LIMITS), "ab" * 32)
    prepared = Prepared(Flavour("tensorrt", module), graph, stored, None)
    chosen = Settled(EngineOptions("tensorrt"))
    monkeypatch.setattr(MEASURE, "settle", lambda *_: chosen)
    monkeypatch.setattr(
        MEASURE, "open_engine", lambda *_, clock, **__: TensorRTEngine(prepared, clock=clock)
    )
    return small_bundle


class StepMeter(Meter):
    """Two rails, one of which feeds the other; each decoding step of the device takes a joule."""

    words = "by a made-up meter"

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.closed, self.joules = cuda, False, 1.0

    def begin(self) -> None:
        self.first = self.cuda.calls.count("cudaGraphLaunch")

    def end(self) -> dict[str, float]:
        steps = float(self.cuda.calls.count("cudaGraphLaunch") - self.first) * self.joules
        return {"VDD_IN": steps, "VDD_GPU": steps / 4}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> StepMeter:
    made = StepMeter(cuda)
    monkeypatch.setattr(MEASURE, "find_meter", lambda bus_id: (made, f"{bus_id} {made.words}"))
    monkeypatch.setattr(repeat, "ENERGY_S", 0.01)
    return made


def run(bundle: Path, **settings: object) -> BenchResult:
    plan = Plan(repeats=2, tokens=6, depths=[4], batches=[1, 2], **settings)  # type: ignore[arg-type]
    return measure(bundle, plan, "9.9", lambda *_: None)


def median(result: BenchResult, key: str) -> float:
    (metric,) = [metric for metric in result.metrics if metric.key == key]
    return result.spread(result.cells[0], metric).median


@pytest.mark.filterwarnings(UNPROVED)
def test_a_step_is_timed_by_the_device(gpu_bundle: Path) -> None:
    result = run(gpu_bundle)
    for cell in result.cells:
        for one in cell.repeats:
            # Two copies of inputs and the network; fetching the logits comes after the event.
            assert one.device_s == [pytest.approx(3 * WORK_S)] * 6
    assert median(result, "device_ms") == pytest.approx(3 * WORK_S * 1e3)


@pytest.mark.filterwarnings(UNPROVED)
def test_bandwidth_is_that_of_a_copy_read_and_written(gpu_bundle: Path) -> None:
    result = run(gpu_bundle)
    assert result.bandwidths == [pytest.approx(2 * 4096 / WORK_S)] * 2
    floor = result.bytes_per_step(result.cells[0]) / (2 * 4096 / WORK_S)
    assert median(result, "device_roofline_percent") == pytest.approx(100 * floor / (3 * WORK_S))


@pytest.mark.filterwarnings(UNPROVED)
def test_the_result_names_the_gpu_and_says_what_it_gave(gpu_bundle: Path, cuda: FakeCuda) -> None:
    result = run(gpu_bundle)
    said = "Fake GPU/8, compute capability 8.9, 1.1 GB, driver for CUDA 13"
    assert facts(result)["GPU"] == result.gpu == said
    assert "copied within the GPU" in facts(result)["bandwidth"]
    assert result.gpu_memory is not None
    assert 0 < result.gpu_memory < 100_000
    assert result.energy.startswith("not measured: ")
    assert "pip install nvidia-ml-py" in result.energy
    assert "Device: " in explanation(result)
    assert "mJ/token" not in explanation(result)
    assert [cuda.device, cuda.host, cuda.streams, cuda.graphs, cuda.events] == [{}] * 5


@pytest.mark.filterwarnings(UNPROVED)
def test_energy_is_that_of_steps_without_a_pause(gpu_bundle: Path, meter: StepMeter) -> None:
    result = run(gpu_bundle)
    for cell in result.cells:
        for one in cell.repeats:
            assert one.joules["VDD_IN"] == pytest.approx(1 / cell.batch, rel=0.2)
    assert median(result, "token_mj") == median(result, "token_mj_VDD_IN")
    assert median(result, "token_mj_VDD_GPU") == pytest.approx(median(result, "token_mj") / 4)
    assert result.energy == "0000:01:00.0 by a made-up meter"
    assert "mJ/token" in explanation(result)
    assert meter.closed


@pytest.mark.filterwarnings(UNPROVED)
def test_a_meter_that_stands_still_measures_nothing(gpu_bundle: Path, meter: StepMeter) -> None:
    meter.joules = 0.0
    result = run(gpu_bundle)
    assert result.energy == "not measured: the meter stood still"
    assert "token_mj" not in {metric.key for metric in result.metrics}


@pytest.mark.filterwarnings(UNPROVED)
def test_a_batch_that_the_gpu_has_no_room_for_is_refused(gpu_bundle: Path, cuda: FakeCuda) -> None:
    cuda.capacity = 40_000
    with pytest.raises(InvalidInputError, match="the GPU had free 0"):
        run(gpu_bundle)


def test_without_a_gpu_the_bench_says_so(gpu_bundle: Path, cuda: FakeCuda) -> None:
    cuda.devices = 0
    with pytest.raises(EngineError, match="this machine shows none"):
        run(gpu_bundle)


def test_spans_are_taken_in_order_and_their_events_used_again(cuda: FakeCuda) -> None:
    with ExitStack() as stack:
        gpu = Gpu(stack)
        clock, pointer = gpu.clock, gpu.cuda.allocate(stack, 8, "a test")
        for _ in range(2):
            for count in (1, 3):
                with clock.span(clock.stream):
                    for _ in range(count):
                        gpu.cuda.clear(pointer, 8, clock.stream)
            clock.paused = True
            with clock.span(clock.stream):
                gpu.cuda.clear(pointer, 8, clock.stream)
            clock.paused = False
            assert clock.take() == [WORK_S, 3 * WORK_S]
        assert len(cuda.events) == 4
    assert not cuda.events


def test_onnxruntime_runs_on_the_clocks_stream_and_its_copies_are_timed_with_it(
    cuda: FakeCuda, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "user_compute_stream" not in provider(tf32=False)[1]
    named = provider(tf32=False, stream=140_001)[1]
    assert named["user_compute_stream"] == "140001"
    bundle = Bundle.open(small_bundle)
    with ExitStack() as stack:
        clock = EventClock(Cuda(), stack)
        engine = HostEngine(bundle, bundle.manifest.graphs[0], clock=clock)
        state, order = engine.new_state(1, 8), cuda.calls
        assert engine.memory.stream == clock.stream
        for owner, name in ((HostBlock, "write"), (CountingMemory, "run"), (HostBlock, "read")):
            original = getattr(owner, name)
            monkeypatch.setattr(
                owner, name, lambda *a, o=original, n=name: (order.append(n), o(*a))[1]
            )
        state.step(np.array([[1, 2]]), np.array([0]), np.array([[1]]))
        order.clear()
        state.past_len[:] = 2
        state.decode()
        made = ["cudaEventCreate"] * 2
        assert order == [*made, "cudaEventRecord", "write", "run", "read", "cudaEventRecord"]
        assert len(cuda.streams[clock.stream]) == 4
