"""Whether this machine shows a GPU at all, asked of the driver itself, which needs no package."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import EngineError

__all__ = ["ON_CPU", "needs_gpu", "without_gpu"]

ON_CPU = ("cpu", "native")
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def without_gpu() -> str | None:
    """Return in words that no GPU can be used here; None if there is one, or it is unclear."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"this machine has none, or no driver for it ({DRIVER})"
    status, count = driver.cuInit(0), ctypes.c_int(1)
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    return "this machine shows none" if status == NO_DEVICE or count.value == 0 else None


@contextmanager
def needs_gpu(backend: str) -> Iterator[None]:
    """Let an error of the block say first that there is no GPU: nothing else would mend that.

    The backends `ON_CPU` need none.
    """
    try:
        yield
    except EngineError as error:
        why = None if backend in ON_CPU else without_gpu()
        if why is None:
            raise
        raise EngineError(f"the backend {backend} needs an NVIDIA GPU, and {why}") from error
