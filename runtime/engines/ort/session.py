"""Importing ONNX Runtime and opening sessions: what its CPU and its CUDA engine have in common."""

import logging
import time
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType
from typing import Any

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...errors import EngineError

__all__ = [
    "LOG_ERRORS_ONLY",
    "LOWERINGS",
    "import_onnxruntime",
    "installed_distributions",
    "open_session",
    "too_old",
    "version_of",
]

logger = logging.getLogger(__name__)

# All of them install the same files.
DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "ort-nightly",
    "ort-nightly-gpu",
)
# Older versions lack the operators of the lowering, or compute them wrongly.
Versions = dict[str, tuple[int, ...]]
MINIMUM_VERSION: Versions = {
    "ort": (1, 25),
    "standard": (1, 25),
    "legacy": (1, 14),
}
LOWERINGS = tuple(MINIMUM_VERSION)  # that ONNX Runtime runs, the best first
LOG_ERRORS_ONLY = 3

Provider = str | tuple[str, dict[str, str]]


def import_onnxruntime(backend: str) -> ModuleType:
    """Import onnxruntime, unless two distributions of it have overwritten each other.

    `backend` is also the name of the extra that brings it.
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
            f"the {backend} backend needs onnxruntime ({error}): "
            f'pip install "edgegpt-toolkit[{backend}]"'
        ) from error
    module: ModuleType = onnxruntime
    return module


def installed_distributions() -> list[str]:
    """Return which of the distributions that bring a module `onnxruntime` are installed."""
    return [name for name in DISTRIBUTIONS if _is_installed(name)]


def open_session(
    runtime: ModuleType, bundle: Bundle, graph: Graph, options: Any, providers: Sequence[Provider]
) -> Any:
    """Open a session on a graph of the bundle.

    Raises:
        EngineError: if this version cannot run the lowering, or cannot load the graph.
    """
    reason = too_old(runtime, graph)
    if reason is not None:
        raise EngineError(reason)
    begin = time.perf_counter()
    try:
        # Without enable_fallback=0 a provider that raises is replaced by another one.
        session = runtime.InferenceSession(
            str(bundle.file(graph.file)), options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # the bindings raise several unrelated types
        raise EngineError(
            f"onnxruntime {runtime.__version__} cannot load {graph.file}: {error}"
        ) from error
    seconds = time.perf_counter() - begin
    logger.info("opened %s on onnxruntime %s in %.2f s", graph.name, runtime.__version__, seconds)
    return session


def too_old(runtime: ModuleType, graph: Graph) -> str | None:
    """Return why this onnxruntime is too old for the graph's lowering, or None if it is not."""
    needed = MINIMUM_VERSION.get(graph.lowering, (0, 0))
    if version_of(runtime) >= needed:
        return None
    return (
        f"the graph {graph.name} needs onnxruntime {needed[0]}.{needed[1]} or later; "
        f"{runtime.__version__} is installed"
    )


def version_of(runtime: ModuleType) -> tuple[int, ...]:
    """Return major and minor version of the module `onnxruntime`."""
    return tuple(int(part) for part in runtime.__version__.split(".")[:2])


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
