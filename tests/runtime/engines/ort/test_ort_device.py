"""Blocks of device memory, on a fake CUDA runtime library behind ctypes."""

import ctypes
import gc
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from edgegpt.runtime.cuda import cudart as cudart_module
from edgegpt.runtime.cuda.cudart import Cudart
from edgegpt.runtime.cuda.device_lock import DEVICE_LOCK
from edgegpt.runtime.engines.ort.device import DeviceMemory
from edgegpt.runtime.errors import EngineError

SUCCESS, OUT_OF_MEMORY, STREAM = 0, 2, 77


class Function:
    """A function of a ctypes library: it can be called, and its `restype` can be set."""

    restype = None

    def __init__(self, call) -> None:
        self.call = call

    def __call__(self, *arguments):
        return self.call(*arguments)


class FakeLibrary:
    """A libcudart with real memory, which is 0xFF at first, and a list of its calls."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blocks: dict[int, ctypes.Array] = {}
        self.calls: list[str] = []
        self.status = SUCCESS  # what the next copies and captures return
        self.recorded: list | None = None  # what is captured at the moment
        self.graphs: dict[int, list] = {}

    def __getattr__(self, name: str):
        def call(*arguments):
            self.calls.append(name)
            return getattr(self, f"do_{name}")(*arguments)

        if name.startswith("do_"):
            raise AttributeError(name)
        function = Function(call)
        setattr(self, name, function)
        return function

    def do_cudaMalloc(self, address, size):  # noqa: N802
        if sum(map(len, self.blocks.values())) + size.value > self.capacity:
            return OUT_OF_MEMORY
        block = (ctypes.c_ubyte * size.value)(*([255] * size.value))
        self.blocks[ctypes.addressof(block)] = block
        address._obj.value = ctypes.addressof(block)
        return SUCCESS

    def do_cudaFree(self, address):  # noqa: N802
        del self.blocks[address.value]
        return SUCCESS

    def do_cudaMemset(self, address, value, size):  # noqa: N802
        ctypes.memset(address, value, size.value)
        return SUCCESS

    def do_cudaMallocHost(self, address, size):  # noqa: N802
        return self.do_cudaMalloc(address, size)

    def do_cudaFreeHost(self, address):  # noqa: N802
        return self.do_cudaFree(address)

    def do_cudaStreamCreateWithFlags(self, stream, flags):  # noqa: N802
        assert flags == 1  # does not wait for the default stream
        stream._obj.value = STREAM
        return SUCCESS

    def do_cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        device = {1: target, 2: source}[kind]
        assert device.value in self.blocks
        assert stream.value == STREAM
        self._put(lambda: ctypes.memmove(target, source, size.value))
        return self.status

    def do_cudaStreamSynchronize(self, stream):  # noqa: N802
        assert stream.value in (None, STREAM)
        assert self.recorded is None, "a wait in a capture"
        return SUCCESS

    def do_cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert (stream.value, mode) == (STREAM, 2)  # relaxed: other threads may allocate
        self.recorded = []
        return SUCCESS

    def do_cudaStreamEndCapture(self, stream, graph):  # noqa: N802
        graph._obj.value = self._new_graph(self.recorded)
        self.recorded = None
        return self.status

    def do_cudaGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        executable._obj.value = self._new_graph(self.graphs[graph.value])
        return SUCCESS

    def do_cudaGraphDestroy(self, graph):  # noqa: N802
        self.graphs.pop(graph.value, None)
        return SUCCESS

    def do_cudaGraphExecDestroy(self, executable):  # noqa: N802
        del self.graphs[executable.value]
        return SUCCESS

    def do_cudaGraphLaunch(self, executable, stream):  # noqa: N802
        for work in self.graphs[executable.value]:
            work()
        return SUCCESS

    def _put(self, work):
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def _new_graph(self, works):
        handle = 1000 + len(self.calls)
        self.graphs[handle] = works
        return handle

    def do_cudaMemGetInfo(self, free, total):  # noqa: N802
        free._obj.value = self.capacity - sum(map(len, self.blocks.values()))
        return SUCCESS

    def do_cudaGetErrorString(self, status):  # noqa: N802
        return {OUT_OF_MEMORY: b"out of memory"}.get(status, b"an illegal memory access")

    def do_cudaGetLastError(self):  # noqa: N802
        return SUCCESS


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    made, names = FakeLibrary(5_000_000), []

    def load(name: str) -> FakeLibrary:
        names.append(name)
        return made

    monkeypatch.setattr(cudart_module.ctypes, "CDLL", load)
    monkeypatch.setattr(cudart_module, "STREAMS", {})
    made.names = names
    return made


@pytest.fixture
def memory(library: FakeLibrary) -> DeviceMemory:
    return DeviceMemory(Cudart(SimpleNamespace(cuda_version="13.0")))


def test_the_library_is_the_one_of_onnxruntimes_cuda(memory, library, monkeypatch) -> None:
    monkeypatch.setattr(cudart_module.sys, "platform", "win32")
    Cudart(SimpleNamespace(cuda_version="12.9"))
    assert library.names == ["libcudart.so.13", "cudart64_12.dll"]


def test_a_library_that_does_not_load_is_named() -> None:
    with pytest.raises(EngineError, match=r"libcudart\.so\.99 does not load"):
        Cudart(SimpleNamespace(cuda_version="99.1"))


def test_a_block_begins_as_zeros_and_keeps_what_is_written(memory, library) -> None:
    block = memory.allocate(1000, "cache")
    assert not block.read().any()
    data = np.arange(1000).astype(np.uint8)
    library.calls.clear()
    block.write(data)
    # The copy is waited for.
    assert library.calls == ["cudaMemcpyAsync", "cudaStreamSynchronize"]
    np.testing.assert_array_equal(block.read(), data)
    place = memory.place(block, "float32", (2, 3), 256)
    assert (place.device, place.address, place.shape) == ("cuda", block.address + 256, (2, 3))


def test_a_block_that_nobody_has_is_given_back_under_the_lock(memory, library) -> None:
    block = memory.allocate(1000, "cache")
    with DEVICE_LOCK:  # held as during a capture

        def drop() -> None:
            nonlocal block
            del block
            gc.collect()

        thread = threading.Thread(target=drop)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert library.blocks
    thread.join()
    assert not library.blocks


def test_a_full_device_is_told_and_can_be_used_on(memory, library) -> None:
    held = memory.allocate(4_000_000, "cache")
    with pytest.raises(
        EngineError, match=r"out of memory on cuda: .*2\.0 MB for the logits \(1\.0 MB are free\)"
    ):
        memory.allocate(2_000_000, "logits")
    assert "cudaGetLastError" in library.calls
    assert not held.read().any()
    memory.allocate(500_000, "logits")


def test_another_failure_is_told_as_it_is(memory, library) -> None:
    block = memory.allocate(10, "inputs")
    library.status = 700
    with pytest.raises(EngineError, match="cudaMemcpyAsync: an illegal memory access"):
        block.read()
    told = memory.explain(RuntimeError("CUDA failure 700"), "9 MB")
    assert str(told) == "cuda failed: CUDA failure 700"
    assert "no room for 9 MB" in str(memory.explain(MemoryError(), "9 MB"))


def test_a_run_that_finds_no_room_says_so(memory) -> None:
    def run(binding, options) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 7")

    with pytest.raises(EngineError, match="no room for memory for a step's activations"):
        memory.run(SimpleNamespace(run_with_iobinding=run), None, None)


def test_all_sessions_share_a_stream_unless_they_get_one(memory, library) -> None:
    other = DeviceMemory(Cudart(SimpleNamespace(cuda_version="13.0")))
    assert memory.stream == other.stream == STREAM
    assert library.calls.count("cudaStreamCreateWithFlags") == 1
    assert DeviceMemory(Cudart(SimpleNamespace(cuda_version="13.0")), 5).stream == 5


def test_page_locked_memory_lives_as_long_as_its_last_view(memory, library) -> None:
    held = memory.host(1000)
    assert not held.any()
    view = held[10:20].view(np.int16)
    del held
    gc.collect()
    assert len(library.blocks) == 1
    view[:] = 3
    del view
    gc.collect()
    assert not library.blocks


def test_a_recording_does_nothing_until_it_is_launched(memory, library) -> None:
    block, data, found = memory.allocate(4, "cache"), memory.host(4), memory.host(4)

    def work() -> None:
        memory.send(block, data)
        memory.fetch(found, block)

    data[:] = 1
    recording = memory.record(work)
    assert not block.read().any()
    for value in (5, 6):
        data[:] = value
        recording.launch()
        assert found.tolist() == [value] * 4
    assert len(library.graphs) == 1
    del recording
    gc.collect()
    assert not library.graphs


@pytest.mark.parametrize("cause", ["work", "capture", "interrupt"])
def test_a_capture_that_fails_leaves_a_stream_that_can_be_used(memory, library, cause) -> None:
    block, data = memory.allocate(4, "cache"), memory.host(4)

    def work() -> None:
        if cause == "interrupt":
            raise KeyboardInterrupt
        if cause == "work":
            raise EngineError("no room for memory")
        library.status = 901

    with pytest.raises((EngineError, KeyboardInterrupt)) as caught:
        memory.record(work)
    told = {"work": "no room", "capture": "cudaStreamEndCapture", "interrupt": ""}[cause]
    assert told in str(caught.value)
    library.status = SUCCESS
    data[:] = 9
    memory.send(block, data)
    assert block.read().tolist() == [9] * 4
    assert cause == "capture" or not library.graphs


def test_nothing_is_collected_while_a_stream_is_captured(memory) -> None:
    found = []
    memory.record(lambda: found.append(gc.isenabled()))
    assert found == [False]
    assert gc.isenabled()


def test_a_forked_child_frees_nothing_and_waits_for_no_lock(memory, library, monkeypatch) -> None:
    block = memory.allocate(10, "cache")
    monkeypatch.setattr("edgegpt.runtime.engines.ort.device.os.getpid", lambda: -1)
    with DEVICE_LOCK:
        del block
        gc.collect()
    assert library.blocks
    assert "cudaFree" not in library.calls


def test_a_free_that_fails_is_not_the_next_calls_error(memory, library) -> None:
    library.do_cudaFree = lambda address: 700
    block = memory.allocate(10, "cache")
    library.calls.clear()
    del block
    gc.collect()
    assert library.calls == ["cudaFree", "cudaGetLastError"]


def test_page_locked_memory_that_the_system_refuses_is_told_with_its_size(memory, library) -> None:
    library.do_cudaMallocHost = lambda address, size: OUT_OF_MEMORY
    with pytest.raises(EngineError, match=r"no room for 2\.0 MB of page-locked memory on the host"):
        memory.host(2_000_000)


def test_a_failure_that_shows_only_while_waiting_is_told(memory, library) -> None:
    library.do_cudaStreamSynchronize = lambda stream: 700
    with pytest.raises(EngineError, match="cuda failed: cudaStreamSynchronize: an illegal memory"):
        memory.wait()
