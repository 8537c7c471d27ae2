"""Check whether ONNX Runtime's CUDA provider really works here, and if not, what is missing.

ONNX Runtime lists the provider as available wherever its package is installed. If a library that it
needs is missing, ONNX Runtime only logs this and runs everything on the CPU. Here it is an error.
"""

import contextlib
import ctypes
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...bundle.manifest import Graph
from ...bundle.protobuf import bytes_field, number_field, text_field
from ...cuda.device_lock import DEVICE_LOCK
from ...errors import EngineError
from ...packages import pip_install
from ..support import SUPPORT, numbers
from .session import LOG_ERRORS_ONLY, Provider

__all__ = [
    "PROVIDER",
    "check_placement",
    "provider",
    "replays_rightly",
    "try_provider",
]

PROVIDER = "CUDAExecutionProvider"
# These operators compute shapes, and ONNX Runtime runs them on the CPU by design, because their
# operands are there. A step that is replayed as a CUDA graph does not run them at all.
SHAPE_OPERATORS = {"Shape", "Size", "Squeeze", "Unsqueeze", "Constant"}


def replays_rightly(runtime: ModuleType, graph: Graph) -> bool:
    """Return whether this version may replay steps of `graph` as CUDA graphs."""
    since = SUPPORT["cuda", graph.lowering].replays
    return since is not None and numbers(runtime.__version__) >= since


def provider(*, tf32: bool, stream: int | None = None) -> Provider:
    """Return the provider with its options; by default ONNX Runtime itself would use TF32."""
    own_stream = {} if stream is None else {"user_compute_stream": str(stream)}
    return PROVIDER, {**own_stream, "device_id": "0", "use_tf32": str(int(tf32))}


def try_provider(runtime: ModuleType) -> None:
    """Run the smallest graph on the device.

    Raises:
        EngineError: if the provider does not load, or there is no device.
    """
    if PROVIDER not in runtime.get_available_providers():
        raise EngineError(
            f"onnxruntime {runtime.__version__} is a build without CUDA: "
            f"pip uninstall onnxruntime, then {pip_install('cuda')}"
        )
    printed = _preload(runtime)
    missing = _missing_library(runtime)
    if missing is not None:
        raise _not_loaded(runtime, missing)
    runtime.set_default_logger_severity(LOG_ERRORS_ONLY)  # 1.28 warns when any session opens
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    try:
        with DEVICE_LOCK:
            session = runtime.InferenceSession(
                _trial_model(),
                options,
                providers=[provider(tf32=False)],
                enable_fallback=0,
            )
            loaded = PROVIDER in session.get_providers()
            if loaded:
                # A missing cuDNN shows only here.
                session.run(None, {"x": np.zeros((1, 2), dtype=np.float32)})
            del session  # its end waits for the device, which another thread's capture forbids
    except Exception as error:  # the bindings raise several unrelated types
        raise EngineError(f"CUDA does not work on this machine: {error}") from error
    if not loaded:
        raise _not_loaded(runtime, printed)


def check_placement(session: Any, graph: Graph) -> None:
    """Refuse a session that would compute a part of the graph on the CPU.

    The session must have been opened with "session.record_ep_graph_assignment_info". The option
    "session.disable_cpu_ep_fallback" would be simpler, but also refuses shape computations.
    """
    if PROVIDER not in session.get_providers():
        raise EngineError(f"{graph.name} was not loaded on CUDA; run edgegpt doctor")
    elsewhere = {
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    }
    if elsewhere - SHAPE_OPERATORS:
        raise EngineError(
            f"onnxruntime would run {', '.join(sorted(elsewhere - SHAPE_OPERATORS))} of "
            f"{graph.name} on the CPU, which has no place in a model on CUDA: use another "
            f"onnxruntime-gpu, or the backend cpu"
        )


def _trial_model() -> bytes:
    """Return an ONNX file of one ReduceL1, which needs cuDNN; field numbers are onnx.proto's."""
    float32, ir_version, opset = 1, 8, 13
    shape = b"".join(bytes_field(1, text_field(2, name)) for name in ("rows", "columns"))
    tensor = bytes_field(1, number_field(1, float32) + bytes_field(2, shape))
    node = text_field(1, "x") + text_field(2, "y") + text_field(3, "y") + text_field(4, "ReduceL1")
    graph = b"".join(
        [
            bytes_field(1, node),
            text_field(2, "trial"),
            bytes_field(11, text_field(1, "x") + bytes_field(2, tensor)),
            bytes_field(12, text_field(1, "y") + bytes_field(2, tensor)),
        ]
    )
    version = text_field(1, "") + number_field(2, opset)
    return number_field(1, ir_version) + bytes_field(7, graph) + bytes_field(8, version)


def _preload(runtime: ModuleType) -> str:
    """Load the libraries of pip's nvidia packages; return the messages about missing ones."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runtime.preload_dlls()
    return said.getvalue()


def _missing_library(runtime: ModuleType) -> str | None:
    """Return the system loader's message about a missing library; None if it has none."""
    folder = Path(str(runtime.__file__)).parent / "capi"
    if sys.platform == "win32":
        return None  # Windows does not tell which library is missing
    try:
        for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            if (folder / name).is_file():
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return None


def _not_loaded(runtime: ModuleType, said: str) -> EngineError:
    """Return the error for a provider that did not load, from the loader's message."""
    libraries = re.findall(r"([\w.+-]+(?:\.so[.\d]*|\.dll))(?=: )", said)
    name = libraries[0] if libraries else "a library of CUDA or cuDNN"
    version = getattr(runtime, "cuda_version", "")
    if name.startswith(("libcuda.so", "nvcuda.dll")):
        remedy = "it comes with NVIDIA's driver: install that, not a package of pip"
    else:
        remedy = (
            f"{pip_install('cuda')} brings it "
            f"(onnxruntime-gpu {runtime.__version__} needs CUDA {version})"
        )
    detail = said.strip().splitlines()[0][:300] if said.strip() else "onnxruntime said no more"
    return EngineError(f"CUDA cannot be used, because {name} is missing: {remedy} ({detail})")
