"""Memory and copies through the CUDA runtime library that ONNX Runtime itself loaded, by ctypes.

It is this library and not the one of `cuda-bindings`, so that its version is always ONNX Runtime's.
All calls use the default stream, and all but `copy_lines` are finished when they return. Callers
therefore hold `DEVICE_LOCK`.
"""

import ctypes
import sys
from types import ModuleType
from typing import Any

from ..errors import EngineError

__all__ = ["Cudart"]

TO_DEVICE, TO_HOST, WITHIN_DEVICE = 1, 2, 3  # cudaMemcpyKind
DEFAULT_STREAM = None
Address, Size = ctypes.c_void_p, ctypes.c_size_t


class Cudart:
    """Allocates, frees and copies. Sizes are in bytes, addresses are whole numbers."""

    def __init__(self, runtime: ModuleType) -> None:
        """Find the library that the module `onnxruntime` uses, which must have loaded it.

        Raises:
            EngineError: if the library cannot be loaded.
        """
        major = str(getattr(runtime, "cuda_version", "")).partition(".")[0]
        name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
        try:
            self.library: Any = ctypes.CDLL(name)
        except OSError as error:
            raise EngineError(
                f"CUDA cannot be used, because {name} does not load: {error}"
            ) from error
        self.library.cudaGetErrorString.restype = ctypes.c_char_p

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes, all of them 0.

        Raises:
            EngineError: "out of memory", if there is not enough.
        """
        address = Address()
        self._call("cudaMalloc", ctypes.byref(address), Size(max(size, 1)))
        assert address.value is not None
        try:
            self._call("cudaMemset", address, 0, Size(size))
            self.wait()
        except EngineError:
            self.free(address.value)
            raise
        return address.value

    def free(self, address: int) -> None:
        """Free what `allocate` returned; ignore a failure, since nothing more can be done."""
        self.library.cudaFree(Address(address))

    def to_device(self, address: int, source: int, size: int) -> None:
        """Copy from the host."""
        self._call("cudaMemcpy", Address(address), Address(source), Size(size), TO_DEVICE)
        self.wait()  # a copy from pageable memory may return before the data is on the device

    def to_host(self, target: int, address: int, size: int) -> None:
        """Copy to the host."""
        self._call("cudaMemcpy", Address(target), Address(address), Size(size), TO_HOST)

    def copy_lines(self, target: int, source: int, width: int, count: int, pitch: int) -> None:
        """Copy `count` lines of `width` bytes, `pitch` bytes apart, within the device.

        Unlike all other calls this one may return before it is done; `wait` waits for it.
        """
        ends = (Address(target), Size(pitch), Address(source), Size(pitch))
        self._call("cudaMemcpy2D", *ends, Size(width), Size(count), WITHIN_DEVICE)

    def wait(self) -> None:
        """Return when the default stream has done all its work."""
        self._call("cudaStreamSynchronize", DEFAULT_STREAM)

    def free_bytes(self) -> int | None:
        """Return how many bytes are free; None if CUDA does not tell."""
        free, total = Size(), Size()
        status = self.library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        return free.value if status == 0 else None

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            text = self.library.cudaGetErrorString(status)
            self.library.cudaGetLastError()  # otherwise the next call would report it again
            told = text.decode(errors="replace") if text else f"status {status}"
            raise EngineError(f"{name}: {told}")
