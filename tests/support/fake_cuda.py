"""A fake CUDA runtime that enforces the documented rules.

The memory is real, and "device" memory is NaN at first. Work on a stream is done only when
something waits for the stream, so that a result that is read too early is wrong.
"""

import ctypes
import itertools
from collections.abc import Callable
from types import SimpleNamespace

__all__ = ["WORK_S", "FakeCuda"]

SUCCESS, OUT_OF_MEMORY, NOT_READY, CAPTURE_FAILED = 0, 2, 600, 901
WORK_S = 2.0**-10


class FakeCuda:
    """`cuda.bindings.runtime`: every function returns a status and perhaps values."""

    cudaStreamNonBlocking = 1  # noqa: N815 - the vendor's names
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity, self.devices = capacity, 1
        self.device: dict[int, ctypes.Array] = {}
        self.host: dict[int, ctypes.Array] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.calls: list[str] = []
        self.numbers = itertools.count(1000)  # of streams, graphs and events
        self.now = 0.0  # the device's clock in seconds; each piece of work takes WORK_S
        self.events: dict[int, float | None] = {}

    def __getattribute__(self, name: str):
        if name.startswith("cuda") and name[4].isupper() and callable(found := _own(self, name)):
            object.__getattribute__(self, "calls").append(name)
            return found
        return object.__getattribute__(self, name)

    def size_at(self, pointer: int) -> int:
        """Return how many bytes of its device allocation begin at the pointer."""
        for start, block in self.device.items():
            if start <= pointer < start + len(block):
                return start + len(block) - pointer
        raise AssertionError(f"{pointer} is no device memory")

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert stream in self.streams, "no such stream"
        (self.streams[stream] if self.captured is None else self.captured).append(work)

    def cudaGetDeviceCount(self):  # noqa: N802
        return (SUCCESS, self.devices) if self.devices else (100, None)

    def cudaSetDevice(self, index):  # noqa: N802
        return (SUCCESS,)

    def cudaGetDeviceProperties(self, index):  # noqa: N802
        return SUCCESS, SimpleNamespace(name=b"Fake GPU/8\0\0", major=8, minor=9, integrated=0)

    def cudaDriverGetVersion(self):  # noqa: N802
        return SUCCESS, 13020

    def cudaMemGetInfo(self):  # noqa: N802
        return SUCCESS, self.capacity - self._used(), self.capacity

    def cudaGetLastError(self):  # noqa: N802
        return (SUCCESS,)

    def cudaGetErrorString(self, status):  # noqa: N802
        return SUCCESS, f"status {status}".encode()

    def cudaMalloc(self, size):  # noqa: N802
        assert self.captured is None, "allocating while capturing"
        if self._used() + size > self.capacity:
            return OUT_OF_MEMORY, None
        block = (ctypes.c_byte * size)(*([-1] * size))  # 0xFF...: NaN
        self.device[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaFree(self, pointer):  # noqa: N802
        self._run_all()
        del self.device[pointer]
        return (SUCCESS,)

    def cudaMallocHost(self, size):  # noqa: N802
        block = (ctypes.c_byte * size)()
        self.host[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaFreeHost(self, pointer):  # noqa: N802
        del self.host[pointer]
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        self.streams[stream := next(self.numbers)] = []
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self._run_all()
        del self.streams[stream]
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert self.captured is None, "waiting while capturing"
        self._run(self.streams[stream])
        return (SUCCESS,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        on_device = {1: [target], 2: [source], 3: [target, source]}[kind]
        on_host = {1: [source], 2: [target], 3: []}[kind]
        assert all(self.size_at(end) >= size for end in on_device)
        assert all(len(self.host[end]) >= size for end in on_host), "not page-locked, or too small"
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size))
        return (SUCCESS,)

    def cudaMemcpy2DAsync(  # noqa: N802
        self, target, target_pitch, source, source_pitch, width, height, kind, stream
    ):
        assert kind == 3
        for end, pitch in ((target, target_pitch), (source, source_pitch)):
            assert width <= pitch
            assert self.size_at(end) >= (height - 1) * pitch + width

        def copy():
            for line in range(height):
                ctypes.memmove(target + line * target_pitch, source + line * source_pitch, width)

        self.enqueue(stream, copy)
        return (SUCCESS,)

    def cudaMemsetAsync(self, pointer, value, size, stream):  # noqa: N802
        assert self.size_at(pointer) >= size
        self.enqueue(stream, lambda: ctypes.memset(pointer, value, size))
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert self.captured is None
        self.captured = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        work, self.captured = self.captured, None
        if work is None or any(one is None for one in work):
            return CAPTURE_FAILED, None
        return SUCCESS, self._keep(work)

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        return SUCCESS, self._keep(self.graphs[graph])

    def cudaGraphLaunch(self, graph, stream):  # noqa: N802
        self.streams[stream].extend(self.graphs[graph])
        return (SUCCESS,)

    def cudaGraphDestroy(self, graph):  # noqa: N802
        del self.graphs[graph]
        return (SUCCESS,)

    cudaGraphExecDestroy = cudaGraphDestroy  # noqa: N815

    def cudaDeviceGetPCIBusId(self, length, device):  # noqa: N802
        return SUCCESS, b"0000:01:00.0" + b"\0" * (length - 12)

    def cudaEventCreate(self):  # noqa: N802
        self.events[event := next(self.numbers)] = None
        return SUCCESS, event

    def cudaEventRecord(self, event, stream):  # noqa: N802
        assert self.captured is None, "an event of a capture tells no time"
        self.events[event] = None
        self.streams[stream].append(lambda: self._happen(event))
        return (SUCCESS,)

    def cudaEventSynchronize(self, event):  # noqa: N802
        if self.events[event] is None:
            self._run_all()
        return (SUCCESS,)

    def cudaEventElapsedTime(self, begin, end):  # noqa: N802
        times = self.events[begin], self.events[end]
        if None in times:
            return NOT_READY, None
        return SUCCESS, (times[1] - times[0]) * 1e3

    def cudaEventDestroy(self, event):  # noqa: N802
        del self.events[event]
        return (SUCCESS,)

    def _happen(self, event) -> None:
        self.now -= WORK_S  # recording an event takes no time
        self.events[event] = self.now

    def _keep(self, work) -> int:
        self.graphs[number := next(self.numbers)] = list(work)
        return number

    def _used(self) -> int:
        return sum(len(block) for block in self.device.values())

    def _run(self, queue) -> None:
        while queue:
            self.now += WORK_S
            queue.pop(0)()

    def _run_all(self) -> None:
        for queue in self.streams.values():
            self._run(queue)


def _own(fake: FakeCuda, name: str):
    return object.__getattribute__(fake, name)
