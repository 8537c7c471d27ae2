"""A GPU for the bench: the time of its steps by its own clock, and the speed of a copy."""

from contextlib import ExitStack

from ..cuda.event_clock import EventClock
from ..cuda.memory import FIRST_DEVICE, Cuda, find_device
from ..errors import EngineError

__all__ = ["Gpu"]

COPY_BYTES = 256 << 20  # several times the largest level-2 cache
COPIES = 8
BUS_ID_LENGTH = 32  # characters; one is 12 long, as in 0000:3b:00.0


class Gpu:
    """The GPU of this process, with a clock for its steps.

    Attributes:
        device: its name, its compute capability, and its memory when it was found.
        clock: times the steps of an engine.
    """

    def __init__(self, stack: ExitStack) -> None:
        """Find the GPU; `stack` frees the clock.

        Raises:
            EngineError: if there is no GPU, it does not work, or cuda-bindings are not installed.
        """
        self.cuda = Cuda()
        device = find_device(self.cuda)
        if device is None:
            raise EngineError("this machine shows no GPU to the CUDA runtime: run edgegpt doctor")
        self.device = device
        self.clock = EventClock(self.cuda, stack)

    @property
    def words(self) -> str:
        """Name, compute capability, memory, and CUDA version of the driver."""
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
        """Return the bytes taken since the GPU was found, including those of other processes."""
        return self.device.free_memory - int(self.cuda.call("cudaMemGetInfo")[0])

    def copy_bandwidth(self) -> float:
        """Return bytes per second of a copy within the GPU's memory, the best of several.

        Each byte counts twice, since it is read and written (as STREAM counts a copy: McCalpin
        1995).
        """
        cuda = self.cuda
        size = min(COPY_BYTES, int(cuda.call("cudaMemGetInfo")[0]) // 4)
        with ExitStack() as stack:
            source, target = (cuda.allocate(stack, size, "measuring it") for _ in range(2))
            clock = EventClock(cuda, stack)
            cuda.clear(source, size, clock.stream)
            for _ in range(1 + COPIES):  # the first copy raises the memory clock
                with clock.span(clock.stream):
                    cuda.within_device(target, source, size, clock.stream)
            return 2 * size / min(clock.take()[1:])
