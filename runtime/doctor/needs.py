"""The needs of each backend: versions, compute capabilities, and names of packages."""

from ..engines.ort.session import DISTRIBUTIONS
from ..engines.support import BACKENDS, ENGINES, NATIVE, TENSORRT, oldest

__all__ = [
    "AUTO",
    "BACKENDS",
    "CUDA_BACKENDS",
    "FLAVOUR_BACKENDS",
    "LATER",
    "ONNX_RUNTIME",
    "ORT_CUDA",
    "PACKAGES",
    "RTX_CAPABILITIES",
    "RUNTIMES",
    "TENSORRT_RANGE",
    "wheel_of",
]

ONNX_RUNTIME = ("cuda", "cpu")
# The backends that `auto` begins with, the best first (a native engine is of one bundle), and those
# that may replace them once their engines are built.
AUTO = ("cuda", NATIVE, "cpu")
LATER = TENSORRT
CUDA_BACKENDS = ("cuda", *TENSORRT)
FLAVOUR_BACKENDS = {ENGINES[backend]: backend for backend in TENSORRT}  # module -> backend

# Oldest version of TensorRT that the tensorrt backend is written for, and the first that it is not.
TENSORRT_RANGE = (oldest("tensorrt"), (12,))
# Compute capabilities that TensorRT for RTX builds for.
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
# Oldest onnxruntime-gpu on PyPI that was built with a CUDA major version -> that version, from the
# requirements of its extra "cuda"; newest first.
ORT_CUDA = {(1, 27): 13, (1, 19): 12}
RUNTIMES = DISTRIBUTIONS
# Library -> its package on PyPI for CUDA 13; for CUDA 12 the names end in -cu12.
PACKAGES = {
    "cudart": "nvidia-cuda-runtime",
    "cublas": "nvidia-cublas",
    "cublaslt": "nvidia-cublas",
    "cudnn": "nvidia-cudnn-cu13",
    "cufft": "nvidia-cufft",
    "curand": "nvidia-curand",
    "nvrtc": "nvidia-cuda-nvrtc",
    "nvjitlink": "nvidia-nvjitlink",
}


def wheel_of(library: str, cuda: int) -> str | None:
    """Return the PyPI package of a library file such as libcublasLt.so.13 or cudnn64_9.dll."""
    stem = library.lower().removeprefix("lib")
    for name in sorted(PACKAGES, key=len, reverse=True):
        if stem.startswith(name):
            package = PACKAGES[name].removesuffix("-cu13")
            suffixed = cuda == 12 or name == "cudnn"
            return f"{package}-cu{cuda}" if suffixed else package
    return None
