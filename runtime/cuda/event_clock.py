"""How long a GPU's part of each step takes, by the GPU's own clock."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from .memory import Cuda

__all__ = ["EventClock", "span_of"]


class EventClock:
    """Times spans of a stream's work by events, which are good to half a microsecond.

    Recording does not make the host wait; `take` does. A span begins when the device gets to it,
    and ends when it has done all that was put on the stream until then: gaps in which it waited for
    the host are part of it.

    Attributes:
        stream: address of a CUDA stream, for engines that run on one that they are given.
        paused: whether spans are not timed at the moment.
    """

    def __init__(self, cuda: Cuda, stack: ExitStack) -> None:
        """Make events as they are needed; `stack` will destroy them, and the stream."""
        self.cuda, self.stack = cuda, stack
        self.stream = int(cuda.stream(stack))
        self.paused = False
        self.pairs: list[tuple[Any, Any]] = []
        self.used = 0

    @contextmanager
    def span(self, stream: Any) -> Iterator[None]:
        """Time what is put on `stream` meanwhile, unless the clock is paused."""
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
    """Time what is put on `stream` meanwhile, if there is a clock."""
    return nullcontext() if clock is None else clock.span(stream)
