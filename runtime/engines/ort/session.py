"""Import ONNX Runtime and open sessions, for both its CPU engine and its CUDA engine."""

import ctypes
import logging
import os
import time
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType
from typing import Any
from weakref import WeakSet

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.widening import wide_model
from ...errors import EngineError
from ...files import library_path
from ...packages import pip_install
from ..calls import ENGINE_CALLS

__all__ = [
    "LOG_ERRORS_ONLY",
    "import_onnxruntime",
    "installed_distributions",
    "open_session",
]

logger = logging.getLogger(__name__)

# All of these install the same files.
DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "ort-nightly",
    "ort-nightly-gpu",
)
LOG_ERRORS_ONLY = 3
# Graphs that are faster with norms and additions joined have them so, and on the CPU it is slower.
UNWANTED = ["SkipLayerNormFusion"]
# Where the weights lie of a model that comes as bytes.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

_sessions: WeakSet[Any] = WeakSet()

Provider = str | tuple[str, dict[str, str]]


def import_onnxruntime(backend: str) -> ModuleType:
    """Import onnxruntime, unless two distributions of it have overwritten each other.

    `backend` is also the name of the extra that installs it.
    """
    installed = installed_distributions()
    if len(installed) > 1:
        raise EngineError(
            f"{' and '.join(installed)} are installed and overwrite each other's files: pip "
            f"uninstall {' '.join(installed)}, then install the one you want"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"the {backend} backend needs onnxruntime ({error}): {pip_install(backend)}"
        ) from error
    module: ModuleType = onnxruntime
    return module


def installed_distributions() -> list[str]:
    """Return the installed distributions that provide the module `onnxruntime`."""
    return [name for name in DISTRIBUTIONS if _is_installed(name)]


def open_session(
    runtime: ModuleType,
    bundle: Bundle,
    graph: Graph,
    options: Any,
    providers: Sequence[Provider],
    *,
    wide: bool = False,
) -> Any:
    """Open a session on a graph of the bundle, or on its `wide_model`.

    Raises:
        EngineError: if this version cannot load the graph.
    """
    begin, path = time.perf_counter(), bundle.file(graph.file)
    model: str | bytes = library_path(path)
    if wide:
        options.add_session_config_entry(WEIGHTS_FOLDER, library_path(path.parent))
        model = wide_model(path.read_bytes())
    try:
        # Without enable_fallback=0, ONNX Runtime replaces a provider that raises by another one.
        with ENGINE_CALLS:
            session = runtime.InferenceSession(
                model,
                options,
                providers=providers,
                disabled_optimizers=UNWANTED,
                enable_fallback=0,
            )
    except Exception as error:  # the bindings raise several unrelated types
        raise EngineError(
            f"onnxruntime {runtime.__version__} cannot load {graph.file}: {error}"
        ) from error
    _sessions.add(session)
    seconds = time.perf_counter() - begin
    logger.info("opened %s on onnxruntime %s in %.2f s", graph.name, runtime.__version__, seconds)
    return session


def _keep_for_ever() -> None:
    """Keep the sessions of the parent process: freeing one waits for threads that are not here."""
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
