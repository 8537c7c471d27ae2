"""What each backend needs, and the versions and names of packages that matter."""

from ..engines.ort import cuda_provider
from ..engines.ort import session as ort_session
from ..engines.tensorrt import vendor
from .parse import Version

__all__ = [
    "AUTO",
    "BACKENDS",
    "CUDA_BACKENDS",
    "FLAVOUR_BACKENDS",
    "LATER",
    "LOWERINGS",
    "ORT_CUDA",
    "PACKAGES",
    "RTX_CAPABILITIES",
    "RUNTIMES",
    "TENSORRT_RANGE",
    "UNSUPPORTED_PRECISIONS",
    "extra",
    "lowerings_of",
    "wheel_of",
]

BACKENDS = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")
# What `auto` begins with, the best first, and what may replace it once its engine is built.
AUTO = ("cuda", "cpu")
LATER = ("tensorrt", "tensorrt-rtx")
CUDA_BACKENDS = ("cuda", "tensorrt", "tensorrt-rtx")
FLAVOUR_BACKENDS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}

# Backend -> lowerings that it runs, the best first, with the oldest version of its engine that
# computes them rightly: ONNX Runtime for cpu and cuda, else TensorRT.
LOWERINGS: dict[str, dict[str, Version]] = {
    "cpu": ort_session.MINIMUM_VERSION,
    "cuda": cuda_provider.SINCE,
    "tensorrt": {
        "standard": vendor.STANDARD_SINCE,
        "legacy": vendor.MINIMUM_VERSIONS["tensorrt"],
    },
    "tensorrt-rtx": {"standard": vendor.MINIMUM_VERSIONS["tensorrt-rtx"]},
}
# ONNX Runtime has no bfloat16 kernels on the CPU.
UNSUPPORTED_PRECISIONS = {"cpu": ("bf16", "bfloat16")}

# First and first unknown version of TensorRT that the tensorrt backend is written for.
TENSORRT_RANGE = ((10, 3), (12,))
# Compute capabilities that TensorRT for RTX builds for.
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
# Oldest onnxruntime-gpu on PyPI -> the CUDA that it was built with, from the requirements of its
# extra "cuda"; newest first.
ORT_CUDA = {(1, 27): 13, (1, 19): 12}
RUNTIMES = ort_session.DISTRIBUTIONS
# Library -> PyPI's package of it, for CUDA 13; for CUDA 12 the names end in -cu12.
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


def extra(name: str) -> str:
    """Return the command that installs this project with one of its extras."""
    return f'pip install "edgegpt-toolkit[{name}]"'


def lowerings_of(backend: str, version: Version) -> list[str]:
    """Return the lowerings that this version of a backend's engine runs, the best first.

    An engine of TensorRT is only ever built from the best.
    """
    runs = [name for name, oldest in LOWERINGS[backend].items() if version >= oldest]
    return runs[:1] if backend in LATER else runs


def wheel_of(library: str, cuda: int) -> str | None:
    """Return PyPI's package of a library's file (libcublasLt.so.13, cudnn64_9.dll)."""
    stem = library.lower().removeprefix("lib")
    for name in sorted(PACKAGES, key=len, reverse=True):
        if stem.startswith(name):
            package = PACKAGES[name].removesuffix("-cu13")
            suffixed = cuda == 12 or name == "cudnn"
            return f"{package}-cu{cuda}" if suffixed else package
    return None
