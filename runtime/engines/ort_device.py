"""The memory of a device, through ONNX Runtime's OrtValue, as blocks of bytes.

This is all that the CUDA engine knows of a device. `DeviceMemory("cpu")` is the host's own memory
behind the same calls, on which the engine's logic can be checked without a GPU.
"""

import ctypes
import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .device_lock import DEVICE_LOCK
from .ort_binding import ELEMENT_TYPES, Place

__all__ = ["Block", "DeviceMemory"]

# What the allocators say; the first two are ONNX Runtime's arena, the third is CUDA's.
OUT_OF_MEMORY = ("Failed to allocate memory", "smaller than requested bytes", "out of memory")

Bytes = NDArray[np.uint8]


class Block:
    """Some bytes on the device, at an address that does not change."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.address: int = value.data_ptr()

    def write(self, data: Bytes) -> None:
        """Copy all bytes of the block from the host; returns when they are there."""
        with DEVICE_LOCK:
            self.value.update_inplace(data)

    def read(self) -> Bytes:
        """Copy all bytes of the block to the host."""
        with DEVICE_LOCK:
            data: Bytes = self.value.numpy()
        return data


class DeviceMemory:
    """One device: `kind` is "cuda", or "cpu" for the host; `index` counts the devices."""

    def __init__(self, runtime: ModuleType, kind: str = "cuda", index: int = 0) -> None:
        self.runtime, self.kind, self.index = runtime, kind, index

    def allocate(self, size: int, what: str) -> Block:
        """Return a block of `size` bytes that are all 0; `what` is its name in an error.

        Raises:
            EngineError: if the device has no room for it.
        """
        try:
            with DEVICE_LOCK:
                value = self.runtime.OrtValue.ortvalue_from_shape_and_type(
                    [size], np.uint8, self.kind, self.index
                )
                block = Block(value)
                block.write(np.zeros(size, dtype=np.uint8))
        except Exception as error:  # the bindings raise several unrelated types
            raise self.explain(error, f"{size / 1e6:,.1f} MB for the {what}") from error
        return block

    def place(self, block: Block, dtype: str, shape: tuple[int, ...], offset: int = 0) -> Place:
        """Return a tensor that lies in `block`, `offset` bytes behind its beginning."""
        return Place(self.kind, self.index, ELEMENT_TYPES[dtype], shape, block.address + offset)

    def run(self, session: Any, binding: Any, options: Any) -> None:
        """Run a bound step, and wait until its results are there.

        Raises:
            EngineError: if the device has no room for its activations, or fails.
        """
        try:
            with DEVICE_LOCK:
                session.run_with_iobinding(binding, options)
        except Exception as error:  # the bindings raise several unrelated types
            raise self.explain(error, "memory for a step's activations") from error

    def explain(self, error: Exception, asked: str) -> EngineError:
        """Return what to raise for an error of the bindings after `asked` was asked for."""
        text = str(error)
        if not isinstance(error, MemoryError) and not any(part in text for part in OUT_OF_MEMORY):
            return EngineError(f"onnxruntime failed on {self.kind}: {text}")
        free = self._free_bytes()
        told = "" if free is None else f" ({free / 1e6:,.1f} MB are free)"
        return EngineError(
            f"out of memory on {self.kind}: there is no room for {asked}{told}; choose a smaller "
            f"context or batch, or close other models ({text.strip().splitlines()[0][:200]})"
        )

    def _free_bytes(self) -> int | None:
        """Return what cudaMemGetInfo says is free, if that can be asked."""
        major = str(getattr(self.runtime, "cuda_version", "")).partition(".")[0]
        if self.kind != "cuda" or not major:
            return None
        name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        try:
            status = ctypes.CDLL(name).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        except (OSError, AttributeError):
            return None
        return free.value if status == 0 else None
