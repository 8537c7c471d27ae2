"""Device memory in blocks of bytes, for a session that is bound to raw addresses.

The CUDA engine reaches the device only through this module; tests replace it by host memory. The
blocks are allocated with CUDA, not as ONNX Runtime's `OrtValue`s: those come from a pool of the
process that doubles when it grows, and keeps all its memory when they are gone.
"""

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.cudart import Cudart
from ...cuda.device_lock import DEVICE_LOCK
from ...errors import EngineError
from .binding import ELEMENT_TYPES, Place

__all__ = ["Block", "DeviceMemory"]

# Error texts of the allocators: the first two of ONNX Runtime's arena, the third of CUDA.
OUT_OF_MEMORY = ("Failed to allocate memory", "smaller than requested bytes", "out of memory")

Bytes = NDArray[np.uint8]


class Block:
    """Some bytes on the device at a fixed address; freed when the block is dropped."""

    def __init__(self, cudart: Cudart, size: int) -> None:
        self.cudart, self.size = cudart, size
        with DEVICE_LOCK:
            self.address = cudart.allocate(size)
        # Not at exit: other threads may still use the block, and the driver frees everything then.
        weakref.finalize(self, _free, cudart, self.address).atexit = False

    def write(self, data: Bytes, offset: int = 0) -> None:
        """Copy `data` from the host to byte `offset`; return when the copy is done."""
        assert offset + data.nbytes <= self.size
        with DEVICE_LOCK:
            self.cudart.to_device(self.address + offset, data.ctypes.data, data.nbytes)

    def read(self, size: int | None = None) -> Bytes:
        """Copy the first `size` bytes of the block (None: all) to the host."""
        data = np.empty(self.size if size is None else size, dtype=np.uint8)
        with DEVICE_LOCK:
            self.cudart.to_host(data.ctypes.data, self.address, data.size)
        return data


class DeviceMemory:
    """The memory of the first device that CUDA lists."""

    kind = "cuda"

    def __init__(self, cudart: Cudart) -> None:
        self.cudart = cudart

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
        return Block(self.cudart, size)

    def place(self, block: Block, dtype: str, shape: tuple[int, ...], offset: int = 0) -> Place:
        """Return a tensor in `block` that begins at byte `offset`."""
        return Place(self.kind, 0, ELEMENT_TYPES[dtype], shape, block.address + offset)

    def copy_lines(self, target: int, source: int, width: int, count: int, pitch: int) -> None:
        """Copy `count` lines of `width` bytes, `pitch` bytes apart, from one address to another.

        The copy may not be done when this returns; see `wait`.
        """
        self.cudart.copy_lines(target, source, width, count, pitch)

    def wait(self) -> None:
        """Return when all copies are done."""
        self.cudart.wait()

    def run(self, session: Any, binding: Any, options: Any) -> None:
        """Run a bound step, and wait for its results.

        Raises:
            EngineError: if the device has no room for the step's activations, or fails.
        """
        try:
            with DEVICE_LOCK:
                session.run_with_iobinding(binding, options)
        except Exception as error:  # the bindings raise several unrelated types
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


def _free(cudart: Cudart, address: int) -> None:
    with DEVICE_LOCK:
        cudart.free(address)
