"""Whether ONNX Runtime's CUDA provider really works here, and if not, what is missing.

ONNX Runtime lists the provider as available wherever its package is installed. When a library that
it needs is missing it logs so, and runs everything on the CPU: here that is an error.
"""

import contextlib
import ctypes
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ...bundle.manifest import Graph
from ...cuda.device_lock import DEVICE_LOCK
from ...errors import EngineError
from .picker import candidates_example, candidates_model
from .session import LOG_ERRORS_ONLY, Provider, version_of

__all__ = [
    "PROVIDER",
    "check_placement",
    "open_candidates",
    "provider",
    "replays_rightly",
    "runs_on_cuda",
    "too_old_for_cuda",
]

PROVIDER = "CUDAExecutionProvider"
INSTALL = 'pip install "edgegpt-toolkit[cuda]"'
# GroupQueryAttention has no float32 kernel there (up to onnxruntime 1.31).
FUSED_ATTENTION_CACHES = ("float16", "bfloat16")
# Before 1.28 the provider lacks operators of opset 24, and would leave them to the CPU.
SINCE: dict[str, tuple[int, ...]] = {"ort": (1, 25), "standard": (1, 28)}
# Before these, a replayed step reads again what it once copied from the host's memory, which is
# something else by then (microsoft/onnxruntime, pull requests 32120 and 32121).
REPLAYS_SINCE = {"ort": (1, 31), "standard": (1, 30)}
# These work on shapes, and ONNX Runtime keeps them on the CPU by design: their operands are there,
# and a step that is replayed as a CUDA graph does not run them at all.
SHAPE_OPERATORS = {"Shape", "Size", "Squeeze", "Unsqueeze", "Constant"}


def runs_on_cuda(graph: Graph) -> bool:
    """Return whether the provider has kernels for all operators of the graph's lowering."""
    if graph.lowering == "ort":
        return all(port.dtype in FUSED_ATTENTION_CACHES for port in graph.caches())
    return graph.lowering == "standard"


def too_old_for_cuda(runtime: ModuleType, graph: Graph) -> str | None:
    """Return why the provider cannot run `graph`, or None if it can."""
    if graph.lowering not in SINCE:
        return f"the backend cuda does not run the lowering {graph.lowering}"
    if not runs_on_cuda(graph):
        return f"CUDA has no kernel for the fused attention of {graph.name} in this precision"
    needed = SINCE[graph.lowering]
    if version_of(runtime) >= needed:
        return None
    return (
        f"the graph {graph.name} needs onnxruntime-gpu {needed[0]}.{needed[1]} or later on CUDA; "
        f"{runtime.__version__} is installed"
    )


def replays_rightly(runtime: ModuleType, graph: Graph) -> bool:
    """Return whether this version may replay steps of `graph` as CUDA graphs."""
    return version_of(runtime) >= REPLAYS_SINCE[graph.lowering]


def provider(*, tf32: bool, cuda_graph: bool, stream: int | None = None) -> Provider:
    """Return the provider with its options; ONNX Runtime's own default is to use TF32."""
    own_stream = {} if stream is None else {"user_compute_stream": str(stream)}
    return PROVIDER, {
        **own_stream,
        "device_id": "0",
        "use_tf32": str(int(tf32)),
        "enable_cuda_graph": str(int(cuda_graph)),
    }


def open_candidates(runtime: ModuleType) -> Any:
    """Open the session that picks candidates out, the first one on the device.

    Raises:
        EngineError: if the provider does not load, or there is no device.
    """
    if PROVIDER not in runtime.get_available_providers():
        raise EngineError(
            f"onnxruntime {runtime.__version__} is a build without CUDA: "
            f"pip uninstall onnxruntime, then {INSTALL}"
        )
    printed = _preload(runtime)
    missing = _missing_library(runtime)
    if missing is not None:
        raise _not_loaded(runtime, missing)
    runtime.set_default_logger_severity(LOG_ERRORS_ONLY)  # 1.28 warns at every session
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    try:
        with DEVICE_LOCK:
            session = runtime.InferenceSession(
                candidates_model(),
                options,
                providers=[provider(tf32=False, cuda_graph=False)],
                enable_fallback=0,
            )
            if PROVIDER in session.get_providers():
                session.run(None, candidates_example())  # a cuDNN that is missing shows only now
    except Exception as error:  # the bindings raise several unrelated types
        raise EngineError(f"CUDA does not work on this machine: {error}") from error
    if PROVIDER not in session.get_providers():
        raise _not_loaded(runtime, printed)
    return session


def check_placement(session: Any, graph: Graph) -> None:
    """Refuse a session that would compute a part of the graph on the CPU.

    The session's options must have had "session.record_ep_graph_assignment_info". The option
    "session.disable_cpu_ep_fallback" would be simpler, but refuses shape computations, too.
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


def _preload(runtime: ModuleType) -> str:
    """Load the libraries of pip's nvidia packages; return what was said about missing ones."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runtime.preload_dlls()
    return said.getvalue()


def _missing_library(runtime: ModuleType) -> str | None:
    """Return what the system's loader says is missing, if it does."""
    folder = Path(str(runtime.__file__)).parent / "capi"
    if sys.platform == "win32":
        return None  # Windows does not say which library it missed
    try:
        for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
            if (folder / name).is_file():
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return None


def _not_loaded(runtime: ModuleType, said: str) -> EngineError:
    """Return the error for a provider that did not load, from what a loader said."""
    libraries = re.findall(r"([\w.+-]+(?:\.so[.\d]*|\.dll))(?=: )", said)
    name = libraries[0] if libraries else "a library of CUDA or cuDNN"
    version = getattr(runtime, "cuda_version", "")
    if name.startswith(("libcuda.so", "nvcuda.dll")):
        remedy = "it comes with NVIDIA's driver: install that, not a package of pip"
    else:
        remedy = f"{INSTALL} brings it (onnxruntime-gpu {runtime.__version__} needs CUDA {version})"
    detail = said.strip().splitlines()[0][:300] if said.strip() else "onnxruntime said no more"
    return EngineError(f"CUDA cannot be used, because {name} is missing: {remedy} ({detail})")
