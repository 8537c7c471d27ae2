"""Memory and streams of a CUDA device, through `cuda-bindings`.

Every function of the CUDA runtime returns a status and perhaps values. `Cuda` checks the status and
returns the values. It registers what it allocates on the caller's `ExitStack`, which frees it.
"""

import ctypes
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .device_lock import DEVICE_LOCK

__all__ = ["FIRST_DEVICE", "Cuda", "Device", "HostArray", "find_device"]

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
TOO_OLD_OR_NO_DRIVER, NO_DEVICE = 35, 100  # cudaErrorInsufficientDriver, cudaErrorNoDevice
FIRST_DEVICE = 0  # CUDA_VISIBLE_DEVICES decides which GPU this is


@dataclass(frozen=True)
class Device:
    """The GPU of this process.

    Attributes:
        name: the driver's name for it.
        compute_capability: for example "8.9".
        cuda_major: the newest major version of CUDA that the driver supports.
        free_memory: bytes free when this was read.
        total_memory: bytes.
        shares_memory: whether its memory is the host's, as on a Jetson.
    """

    name: str
    compute_capability: str
    cuda_major: str
    free_memory: int
    total_memory: int
    shares_memory: bool


class HostArray:
    """Page-locked host memory: the device can copy from and to it while the host goes on.

    Attributes:
        array: the memory as a numpy array; valid while the stack that owns the memory is open.
    """

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.pointer = pointer
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = (ctypes.c_byte * size).from_address(pointer)
        self.array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype=dtype).reshape(shape)
        self.array[...] = 0


class Cuda:
    """The CUDA runtime, with status codes turned into errors."""

    def __init__(self) -> None:
        """Import the bindings.

        Raises:
            EngineError: if they are not installed.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EngineError(
                f"talking to the GPU needs cuda-bindings ({error}): pip install cuda-bindings"
            ) from error
        self.runtime: Any = runtime

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; return its value, or None if it has none.

        Raises:
            EngineError: if its status is not success.
        """
        status, *values = getattr(self.runtime, name)(*arguments)
        if int(status) != 0:
            self.forget_error()
            raise EngineError(f"CUDA failed in {name}: {self._text(status)}")
        return values[0] if len(values) == 1 else values

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that frees something, and ignore its status.

        It fails at the end of the process if the driver has already shut down; nothing more can be
        done then.
        """
        getattr(self.runtime, name)(*arguments)

    def allocate(self, stack: ExitStack, size: int, purpose: str) -> int:
        """Return the address of `size` bytes on the device, which `stack` will free.

        Raises:
            EngineError: if there is not enough memory; the device remains usable.
        """
        status, pointer = self.runtime.cudaMalloc(max(size, 1))
        if int(status) != 0:
            self.forget_error()
            raise EngineError(self._shortage(status, size, purpose))
        stack.callback(self.release, "cudaFree", pointer)
        return int(pointer)

    def host_array(
        self, stack: ExitStack, shape: tuple[int, ...], dtype: type[np.generic]
    ) -> HostArray:
        """Return page-locked memory of this shape, all zero, which `stack` will free."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = self.call("cudaMallocHost", max(size, 1))
        stack.callback(self.release, "cudaFreeHost", pointer)
        return HostArray(int(pointer), shape, dtype)

    def stream(self, stack: ExitStack) -> Any:
        """Return a new stream that does not wait for the default stream; `stack` destroys it."""
        stream = self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)
        stack.callback(self.release, "cudaStreamDestroy", stream)
        return stream

    def to_device(self, pointer: int, source: HostArray, size: int, stream: Any) -> None:
        """Put on the stream a copy of the first `size` bytes of `source` to the device."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", pointer, source.pointer, size, kind, stream)

    def to_host(self, target: HostArray, pointer: int, size: int, stream: Any) -> None:
        """Put on the stream a copy of `size` bytes from the device to `target`."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target.pointer, pointer, size, kind, stream)

    def within_device(self, target: int, source: int, size: int, stream: Any) -> None:
        """Put on the stream a copy of `size` bytes from one place on the device to another."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_lines(
        self, target: int, source: int, width: int, count: int, pitch: int, stream: Any
    ) -> None:
        """Put on the stream a copy of `count` lines of `width` bytes, `pitch` bytes apart.

        Source and target are both on the device.
        """
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        ends = (target, pitch, source, pitch)
        self.call("cudaMemcpy2DAsync", *ends, width, count, kind, stream)

    def forget_error(self) -> None:
        """Clear the last error, which the next call would otherwise report again."""
        self.runtime.cudaGetLastError()

    def clear(self, pointer: int, size: int, stream: Any) -> None:
        """Put on the stream a write of zeros to `size` bytes of the device."""
        self.call("cudaMemsetAsync", pointer, 0, size, stream)

    def wait(self, stream: Any) -> None:
        """Return when the stream has done all its work."""
        with DEVICE_LOCK:  # waiting also spoils a capture in another thread
            self.call("cudaStreamSynchronize", stream)

    def _shortage(self, status: Any, size: int, purpose: str) -> str:
        wanted = f"{size / 1e6:,.1f} MB on the GPU for {purpose}"
        if int(status) != OUT_OF_MEMORY:
            return f"CUDA could not allocate {wanted}: {self._text(status)}"
        status, free, _ = self.runtime.cudaMemGetInfo()
        left = f"; {free / 1e6:,.1f} MB are free" if int(status) == 0 else ""
        return f"there is no room for {wanted}{left}: use fewer rows or a smaller context"

    def _text(self, status: Any) -> str:
        _, text = self.runtime.cudaGetErrorString(status)
        return text.decode() if isinstance(text, bytes) else str(text)


def find_device(cuda: Cuda) -> Device | None:
    """Return the GPU of this process, or None if it has none.

    Raises:
        EngineError: if there is a GPU that does not work, for example with an old driver.
    """
    status, count = cuda.runtime.cudaGetDeviceCount()
    if int(status) != 0:
        cuda.forget_error()
    if int(status) == TOO_OLD_OR_NO_DRIVER:
        _check_driver(cuda)
    if int(status) in (TOO_OLD_OR_NO_DRIVER, NO_DEVICE) or (int(status) == 0 and count == 0):
        return None
    cuda.call("cudaSetDevice", FIRST_DEVICE)
    properties = cuda.call("cudaGetDeviceProperties", FIRST_DEVICE)
    free, total = cuda.call("cudaMemGetInfo")
    name = properties.name
    if isinstance(name, bytes):
        name = name.split(b"\0")[0].decode(errors="replace")
    return Device(
        name=name,
        compute_capability=f"{properties.major}.{properties.minor}",
        cuda_major=str(int(cuda.call("cudaDriverGetVersion")) // 1000),
        free_memory=int(free),
        total_memory=int(total),
        shares_memory=bool(properties.integrated),
    )


def _check_driver(cuda: Cuda) -> None:
    """Refuse a driver that is older than the bindings' runtime; do nothing without a driver."""
    known = int(cuda.call("cudaDriverGetVersion"))  # 13020 means 13.2, 0 means no driver
    if known:
        newest = f"{known // 1000}.{known % 1000 // 10}"
        raise EngineError(
            f"the driver knows CUDA up to {newest}, the installed cuda-bindings need a newer one: "
            f'pip install "cuda-bindings<{known // 1000 + 1}", or update the driver'
        )
