"""Device memory in blocks of bytes, and the stream of a session that is bound to raw addresses.

The CUDA engine reaches the device only through this module; tests replace it by host memory. The
blocks are allocated with CUDA, not as ONNX Runtime's `OrtValue`s: those come from a pool of the
process that doubles when it grows, and keeps all its memory when they are gone.
"""

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.cudart import Cudart
from ...cuda.device_lock import DEVICE_LOCK, no_collection
from ...errors import EngineError
from .binding import ELEMENT_TYPES, Place

__all__ = ["Block", "DeviceMemory", "Recording"]

# Error texts of the allocators: the first two of ONNX Runtime's arena, the third of CUDA.
OUT_OF_MEMORY = ("Failed to allocate memory", "smaller than requested bytes", "out of memory")

Bytes = NDArray[np.uint8]


class Block:
    """Some bytes on the device at a fixed address; freed when the block is dropped."""

    def __init__(self, cudart: Cudart, stream: int, size: int) -> None:
        self.cudart, self.stream, self.size = cudart, stream, size
        with DEVICE_LOCK:
            self.address = cudart.allocate(size)
        _free_with(self, cudart.free, self.address)

    def write(self, data: Bytes, offset: int = 0) -> None:
        """Copy `data` from the host to byte `offset`; return when the copy is done."""
        assert offset + data.nbytes <= self.size
        with DEVICE_LOCK:
            ends = self.address + offset, data.ctypes.data
            self.cudart.to_device(*ends, data.nbytes, self.stream)
            self.cudart.wait(self.stream)

    def read(self, size: int | None = None) -> Bytes:
        """Copy the first `size` bytes of the block (None: all) to the host."""
        data = np.empty(self.size if size is None else size, dtype=np.uint8)
        with DEVICE_LOCK:
            self.cudart.to_host(data.ctypes.data, self.address, data.size, self.stream)
            self.cudart.wait(self.stream)
        return data


class Recording:
    """Work of a stream that was captured as a CUDA graph; freed when it is dropped."""

    def __init__(self, cudart: Cudart, stream: int, graph: int) -> None:
        self.cudart, self.stream, self.graph = cudart, stream, graph
        _free_with(self, cudart.free_graph, graph)

    def launch(self) -> None:
        """Put all of it on the stream again."""
        self.cudart.launch(self.graph, self.stream)


class DeviceMemory:
    """The memory of the first device that CUDA lists, and a stream of its work.

    Attributes:
        stream: the CUDA stream on which all copies and runs are done, in order.
    """

    kind = "cuda"

    def __init__(self, cudart: Cudart, stream: int | None = None) -> None:
        """Use `stream`, or the process's own."""
        with DEVICE_LOCK:
            self.cudart, self.stream = cudart, stream or cudart.stream()

    def allocate(self, size: int, what: str) -> Block:
        """Return a block of `size` bytes, all of them 0; `what` names it in an error.

        Raises:
            EngineError: if the device has no room for it.
        """
        try:
            return self.reserve(size)
        except EngineError as error:
            raise self.explain(error, f"{size / 1e6:,.1f} MB for the {what}") from error

    def reserve(self, size: int) -> Block:
        """Return a block of `size` bytes, all of them 0; an error has CUDA's text."""
        return Block(self.cudart, self.stream, size)

    def host(self, size: int) -> Bytes:
        """Return page-locked memory of the host, all 0; freed when no array uses it any more.

        Raises:
            EngineError: if the system gives no more of it.
        """
        try:
            with DEVICE_LOCK:
                address = self.cudart.allocate_host(size)
        except EngineError as error:
            asked = f"{size / 1e6:,.1f} MB of page-locked memory on the host"
            raise self.explain(error, asked) from error
        memory = (ctypes.c_ubyte * size).from_address(address)
        _free_with(memory, self.cudart.free_host, address)
        found: Bytes = np.frombuffer(memoryview(memory), dtype=np.uint8)
        found[:] = 0
        return found

    def place(self, block: Block, dtype: str, shape: tuple[int, ...], offset: int = 0) -> Place:
        """Return a tensor in `block` that begins at byte `offset`."""
        return Place(self.kind, 0, ELEMENT_TYPES[dtype], shape, block.address + offset)

    def copy_lines(self, target: int, source: int, width: int, count: int, pitch: int) -> None:
        """Put on the stream a copy of `count` lines of `width` bytes, `pitch` bytes apart."""
        self.cudart.copy_lines(target, source, width, count, pitch, self.stream)

    def send(self, block: Block, data: Bytes) -> None:
        """Put on the stream a copy of `data` to the beginning of `block`."""
        self.cudart.to_device(block.address, data.ctypes.data, data.nbytes, self.stream)

    def fetch(self, data: Bytes, block: Block) -> None:
        """Put on the stream a copy of the beginning of `block` to `data`."""
        self.cudart.to_host(data.ctypes.data, block.address, data.nbytes, self.stream)

    def wait(self) -> None:
        """Return when all that was put on the stream is done.

        Raises:
            EngineError: if something of it failed.
        """
        try:
            self.cudart.wait(self.stream)
        except EngineError as error:
            raise self.explain(error, "memory for a step's activations") from error

    def run(self, session: Any, binding: Any, options: Any) -> None:
        """Put a bound step on the stream.

        Raises:
            EngineError: if the device has no room for the step's activations, or fails.
        """
        try:
            with DEVICE_LOCK:
                session.run_with_iobinding(binding, options)
        except Exception as error:  # the bindings raise several unrelated types
            raise self.explain(error, "memory for a step's activations") from error

    def record(self, work: Callable[[], None]) -> Recording:
        """Capture what `work` puts on the stream, without doing it.

        Raises:
            EngineError: if something of it cannot be captured; the stream can be used on.
        """
        with DEVICE_LOCK, no_collection():
            try:
                self.cudart.begin_capture(self.stream)
                work()
                graph = self.cudart.end_capture(self.stream)
            except BaseException:  # an interrupt, too: all sessions use the stream
                with contextlib.suppress(EngineError):
                    self.cudart.free_graph(self.cudart.end_capture(self.stream))
                raise
            return Recording(self.cudart, self.stream, graph)

    def launch(self, recording: Recording) -> None:
        """Put all of it on the stream again.

        Raises:
            EngineError: if the device has no room for it.
        """
        try:
            recording.launch()
        except EngineError as error:
            raise self.explain(error, "memory for a step's activations") from error

    def explain(self, error: Exception, asked: str) -> EngineError:
        """Return the error to raise when a request for `asked` failed with `error`."""
        text = str(error).strip() or type(error).__name__
        if not isinstance(error, MemoryError) and not any(part in text for part in OUT_OF_MEMORY):
            return EngineError(f"{self.kind} failed: {text}")
        free = self.free_bytes()
        told = "" if free is None else f" ({free / 1e6:,.1f} MB are free)"
        return EngineError(
            f"out of memory on {self.kind}: there is no room for {asked}{told}; choose a smaller "
            f"context or batch, or close other models ({text.splitlines()[0][:200]})"
        )

    def free_bytes(self) -> int | None:
        """Return how many bytes of the memory are free; None if CUDA does not tell."""
        with DEVICE_LOCK:
            return self.cudart.free_bytes()


def _free_with(owner: object, free: Callable[[int], None], handle: int) -> None:
    """Free `handle` when `owner` is dropped.

    Not at exit: other threads may still use it, and the driver frees everything then.
    """
    weakref.finalize(owner, _release, free, handle, os.getpid()).atexit = False


def _release(free: Callable[[int], None], handle: int, process: int) -> None:
    if os.getpid() != process:
        return  # a forked child has no device, and inherits the lock as it was
    with DEVICE_LOCK:
        free(handle)
