"""Measure the GPU's time in each step, by the GPU's own clock."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from .memory import Cuda

__all__ = ["EventClock", "span_of"]


class EventClock:
    """Times spans of a stream's work by events, which have a resolution of half a microsecond.

    Recording does not make the host wait; `take` does. A span begins when the device reaches its
    first event, and ends when the device has done all work put on the stream before the second. It
    includes gaps in which the device waits for the host.

    Attributes:
        stream: address of a CUDA stream, for engines that run on a stream given by the caller.
        paused: whether timing is switched off at the moment.
    """

    def __init__(self, cuda: Cuda, stack: ExitStack) -> None:
        """Make the stream; events follow as needed. `stack` will destroy all of them."""
        self.cuda, self.stack = cuda, stack
        self.stream = int(cuda.stream(stack))
        self.paused = False
        self.pairs: list[tuple[Any, Any]] = []
        self.used = 0

    @contextmanager
    def span(self, stream: Any) -> Iterator[None]:
        """Time the work put on `stream` inside the block, unless the clock is paused."""
        if self.paused:
            yield
            return
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


def span_of(clock: EventClock | None, stream: Any) -> AbstractContextManager[None]:
    """Time the work put on `stream` inside the block, if there is a clock."""
    return nullcontext() if clock is None else clock.span(stream)
