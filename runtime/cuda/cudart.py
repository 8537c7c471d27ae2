"""Memory, copies and graphs by the CUDA runtime library that ONNX Runtime itself loaded, by ctypes.

It is this library and not the one of `cuda-bindings`, so that its version is always ONNX Runtime's.
Copies and launches are put on a stream and may not be done when the call returns; see `wait`.
Callers hold `DEVICE_LOCK`.
"""

import ctypes
import sys
from types import ModuleType
from typing import Any

from ..errors import EngineError

__all__ = ["Cudart"]

TO_DEVICE, TO_HOST, WITHIN_DEVICE = 1, 2, 3  # cudaMemcpyKind
DEFAULT_STREAM = None
NON_BLOCKING = 1  # cudaStreamNonBlocking: the stream does not wait for the default stream
# cudaStreamCaptureModeRelaxed: other threads may allocate while a stream is captured.
RELAXED = 2
Address, Size = ctypes.c_void_p, ctypes.c_size_t
STREAMS: dict[str, int] = {}  # by the name of the library


class Cudart:
    """Allocates, copies, captures and launches. Sizes are in bytes; handles and addresses, ints."""

    def __init__(self, runtime: ModuleType) -> None:
        """Find the library that the module `onnxruntime` uses, which must have loaded it.

        Raises:
            EngineError: if the library cannot be loaded.
        """
        major = str(getattr(runtime, "cuda_version", "")).partition(".")[0]
        on_windows = sys.platform == "win32"
        self.name = f"cudart64_{major}.dll" if on_windows else f"libcudart.so.{major}"
        try:
            self.library: Any = ctypes.CDLL(self.name)
        except OSError as error:
            raise EngineError(
                f"CUDA cannot be used, because {self.name} does not load: {error}"
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
        self._free("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """Return the address of `size` bytes of page-locked host memory, whose content is any.

        The device reads and writes it without a copy in between, and while the host goes on.
        """
        address = Address()
        self._call("cudaMallocHost", ctypes.byref(address), Size(max(size, 1)))
        assert address.value is not None
        return address.value

    def free_host(self, address: int) -> None:
        """Free what `allocate_host` returned."""
        self._free("cudaFreeHost", address)

    def stream(self) -> int:
        """Return the process's stream for sessions, which does not wait for the default stream.

        All sessions share it, since only one of them works at a time, and none outlives it.
        """
        if self.name not in STREAMS:
            stream = Address()
            self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), NON_BLOCKING)
            assert stream.value is not None
            STREAMS[self.name] = stream.value
        return STREAMS[self.name]

    def to_device(self, address: int, source: int, size: int, stream: int) -> None:
        """Copy from the host."""
        ends = Address(address), Address(source)
        self._call("cudaMemcpyAsync", *ends, Size(size), TO_DEVICE, Address(stream))

    def to_host(self, target: int, address: int, size: int, stream: int) -> None:
        """Copy to the host."""
        ends = Address(target), Address(address)
        self._call("cudaMemcpyAsync", *ends, Size(size), TO_HOST, Address(stream))

    def copy_lines(
        self, target: int, source: int, width: int, count: int, pitch: int, stream: int
    ) -> None:
        """Copy `count` lines of `width` bytes, `pitch` bytes apart, within the device."""
        ends = (Address(target), Size(pitch), Address(source), Size(pitch))
        size = Size(width), Size(count)
        self._call("cudaMemcpy2DAsync", *ends, *size, WITHIN_DEVICE, Address(stream))

    def wait(self, stream: int | None = DEFAULT_STREAM) -> None:
        """Return when the stream has done all its work."""
        self._call("cudaStreamSynchronize", Address(stream))

    def begin_capture(self, stream: int) -> None:
        """Record what is put on the stream from now on, in place of doing it."""
        self._call("cudaStreamBeginCapture", Address(stream), RELAXED)

    def end_capture(self, stream: int) -> int:
        """Return what was recorded, as a graph that can be launched.

        Raises:
            EngineError: if something was called that cannot be recorded.
        """
        graph, executable = Address(), Address()
        self._call("cudaStreamEndCapture", Address(stream), ctypes.byref(graph))
        try:
            made = ctypes.byref(executable), graph, ctypes.c_ulonglong(0)
            self._call("cudaGraphInstantiateWithFlags", *made)
        finally:
            self.library.cudaGraphDestroy(graph)
        assert executable.value is not None
        return executable.value

    def launch(self, graph: int, stream: int) -> None:
        """Do again what was recorded."""
        self._call("cudaGraphLaunch", Address(graph), Address(stream))

    def free_graph(self, graph: int) -> None:
        """Free what `end_capture` returned."""
        self._free("cudaGraphExecDestroy", graph)

    def free_bytes(self) -> int | None:
        """Return how many bytes are free; None if CUDA does not tell."""
        free, total = Size(), Size()
        status = self.library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        return free.value if status == 0 else None

    def _free(self, name: str, handle: int) -> None:
        if getattr(self.library, name)(Address(handle)) != 0:
            self.library.cudaGetLastError()  # otherwise the next call would report it

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            text = self.library.cudaGetErrorString(status)
            self.library.cudaGetLastError()  # otherwise the next call would report it again
            told = text.decode(errors="replace") if text else f"status {status}"
            raise EngineError(f"{name}: {told}")
