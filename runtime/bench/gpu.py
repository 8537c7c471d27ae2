"""What a bench asks of a GPU: how long its steps take by its own clock, and how fast it copies."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..engines.cuda_memory import FIRST_DEVICE, Cuda, find_device
from ..errors import EngineError

__all__ = ["EventClock", "Gpu"]

COPY_BYTES = 256 << 20  # several times the largest level-2 cache
COPIES = 8
BUS_ID_LENGTH = 32  # characters; one is 12 long, as in 0000:3b:00.0


class EventClock:
    """Times spans of a stream's work by events: the device's own clock, good to half a microsecond.

    Recording does not make the host wait; `take` does. A span ends when the device has done all
    that was put on the stream until then, so the gaps in which it waited for the host are part.
    """

    def __init__(self, cuda: Cuda, stack: ExitStack) -> None:
        """Make events as they are needed; `stack` will destroy them."""
        self.cuda, self.stack = cuda, stack
        self.pairs: list[tuple[Any, Any]] = []
        self.used = 0

    @contextmanager
    def span(self, stream: Any) -> Iterator[None]:
        """Time what is put on `stream` meanwhile."""
        if self.used == len(self.pairs):
            self.pairs.append((self._event(), self._event()))
        begin, end = self.pairs[self.used]
        self.cuda.call("cudaEventRecord", begin, stream)
        yield
        self.cuda.call("cudaEventRecord", end, stream)
        self.used += 1

    def take(self) -> list[float]:
        """Wait for the device; return the seconds of each span since the last call, in order."""
        spans, self.used = self.pairs[: self.used], 0
        seconds = []
        for begin, end in spans:
            self.cuda.call("cudaEventSynchronize", end)
            seconds.append(float(self.cuda.call("cudaEventElapsedTime", begin, end)) / 1e3)
        return seconds

    def _event(self) -> Any:
        event = self.cuda.call("cudaEventCreate")
        self.stack.callback(self.cuda.release, "cudaEventDestroy", event)
        return event


class Gpu:
    """The GPU of this process, with a stream for an engine that takes one.

    Attributes:
        free_memory: bytes, when it was found.
        stream: address of a CUDA stream.
        events: a clock for the steps on it.
    """

    def __init__(self, stack: ExitStack) -> None:
        """Find it; `stack` will give back what is made here.

        Raises:
            EngineError: if there is none, it does not work, or cuda-bindings are not installed.
        """
        self.cuda = Cuda()
        device = find_device(self.cuda)
        if device is None:
            raise EngineError("this machine shows no GPU to the CUDA runtime: run edgegpt doctor")
        self.device, self.free_memory = device, device.free_memory
        self.stream = int(self.cuda.stream(stack))
        self.events = EventClock(self.cuda, stack)

    @property
    def words(self) -> str:
        """Name, and what decides which kernels run."""
        device = self.device
        return (
            f"{device.name}, compute capability {device.compute_capability}, "
            f"{device.total_memory / 1e9:.1f} GB, driver for CUDA {device.cuda_major}"
        )

    @property
    def bus_id(self) -> str:
        """Its place on the PCI bus, by which NVML knows it."""
        found = self.cuda.call("cudaDeviceGetPCIBusId", BUS_ID_LENGTH, FIRST_DEVICE)
        return bytes(found).split(b"\0")[0].decode()

    def taken_memory(self) -> int:
        """Return the bytes that were taken since then; what other processes took counts, too."""
        return self.free_memory - int(self.cuda.call("cudaMemGetInfo")[0])

    def copy_bandwidth(self) -> float:
        """Return bytes per second of a copy within the GPU's memory, the best of several.

        Each byte counts twice, since it is read and written (as STREAM counts a copy: McCalpin
        1995).
        """
        cuda = self.cuda
        size = min(COPY_BYTES, int(cuda.call("cudaMemGetInfo")[0]) // 4)
        with ExitStack() as stack:
            source, target = (cuda.allocate(stack, size, "measuring it") for _ in range(2))
            stream, clock = cuda.stream(stack), EventClock(cuda, stack)
            cuda.clear(source, size, stream)
            for _ in range(1 + COPIES):  # the first one wakes the memory's clock
                with clock.span(stream):
                    cuda.within_device(target, source, size, stream)
            return 2 * size / min(clock.take()[1:])
