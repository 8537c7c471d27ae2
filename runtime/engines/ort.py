"""ONNX Runtime on the CPU: everything is bound to numpy memory, and the cache is updated in place.

A cache input and its output are bound to one and the same buffer, so that the scatter operators
write the new slots and copy nothing.
"""

import os
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import EngineError
from ..manifest import Graph, Port
from .base import Engine, EngineInfo, Ids, State

__all__ = ["OrtEngine"]

PROVIDER = "CPUExecutionProvider"
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
# Older versions lack the operators of the lowering, or compute them wrongly.
MINIMUM_VERSION = {"standard": (1, 25)}
LOG_ERRORS_ONLY = 3


class OrtEngine(Engine):
    """A graph in an ONNX Runtime session on the CPU provider."""

    def __init__(self, bundle: Bundle, graph: Graph, threads: int | None = None) -> None:
        """Load the graph; `threads` None leaves the number to ONNX Runtime (physical cores)."""
        self.graph = graph
        self.runtime = _import_onnxruntime()
        _check_version(self.runtime, graph)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = LOG_ERRORS_ONLY
        self.threads = threads or len(_usable_cpus())
        try:
            self.session = self.runtime.InferenceSession(
                str(bundle.file(graph.file)), options, providers=[PROVIDER]
            )
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(
                f"onnxruntime {self.runtime.__version__} cannot load {graph.file}: {error}"
            ) from error

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        return EngineInfo("onnxruntime", self.runtime.__version__, "cpu", self.threads)

    def new_state(self, batch: int, context: int) -> "OrtState":
        """Return an empty cache for `batch` rows of up to `context` tokens."""
        if self.session is None:
            raise EngineError("the model was closed")
        return OrtState(self.session, self.graph, batch, context)

    def close(self) -> None:
        """Drop the session, which frees the weights."""
        self.session = None


class OrtState(State):
    """One IO binding. Buffers are rebound only when the number of new tokens changes."""

    def __init__(self, session: Any, graph: Graph, batch: int, context: int) -> None:
        super().__init__(batch, context)
        self.session = session
        self.binding = session.io_binding()
        self.vocab_size = _last_axis(_of_role(graph.outputs, "logits"))
        # ONNX Runtime keeps only addresses: these references keep the memory alive.
        self.caches: list[NDArray[Any]] = []
        for port in graph.caches():
            sizes = {"batch": batch, "context": context}
            shape = [size if isinstance(size, int) else sizes[size] for size in port.shape]
            cache = np.zeros(shape, dtype=port.dtype)
            self.caches.append(cache)
            self._bind_input(port.name, cache)
            self._bind_output(str(port.present), cache)
        self.past_len = np.zeros(batch, dtype=np.int64)
        self._bind_input("past_len", self.past_len)
        self._bind_step(1, 1)

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""
        return self.logits_buffer

    def _bind_step(self, length: int, positions: int) -> None:
        """Bind buffers for `length` new tokens and `positions` rows of logits."""
        self.ids = np.zeros((self.batch, length), dtype=np.int64)
        self.logit_positions = np.zeros((self.batch, positions), dtype=np.int64)
        self.logits_buffer = np.zeros((self.batch, positions, self.vocab_size), dtype=np.float32)
        self._bind_input("ids", self.ids)
        self._bind_input("logit_positions", self.logit_positions)
        self._bind_output("logits", self.logits_buffer)

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        if ids.shape != self.ids.shape or logit_positions.shape != self.logit_positions.shape:
            self._bind_step(ids.shape[1], logit_positions.shape[1])
        self.ids[:] = ids
        self.past_len[:] = past_len
        self.logit_positions[:] = logit_positions
        try:
            self.session.run_with_iobinding(self.binding)
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(f"onnxruntime failed while running the model: {error}") from error

    def _bind_input(self, name: str, array: NDArray[Any]) -> None:
        self.binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: NDArray[Any]) -> None:
        self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _import_onnxruntime() -> ModuleType:
    """Import onnxruntime, unless two distributions of it have overwritten each other."""
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise EngineError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files: "
            f"pip uninstall both, then install the one you want"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f'the cpu backend needs onnxruntime ({error}): pip install "edgegpt-toolkit[cpu]"'
        ) from error
    module: ModuleType = onnxruntime
    return module


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_version(runtime: ModuleType, graph: Graph) -> None:
    needed = MINIMUM_VERSION.get(graph.lowering, (0, 0))
    found = tuple(int(part) for part in runtime.__version__.split(".")[:2])
    if found < needed:
        raise EngineError(
            f"the graph {graph.name} needs onnxruntime {needed[0]}.{needed[1]} or later; "
            f"{runtime.__version__} is installed"
        )


def _usable_cpus() -> range | set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _of_role(ports: list[Port], role: str) -> Port:
    for port in ports:
        if port.role == role:
            return port
    raise EngineError(f"the graph has no port of role {role}")


def _last_axis(port: Port) -> int:
    size = port.shape[-1]
    if not isinstance(size, int):
        raise EngineError(f"the last axis of {port.name} has no fixed size")
    return size
