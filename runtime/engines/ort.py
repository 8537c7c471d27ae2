"""ONNX Runtime on the CPU: everything is bound to numpy memory, and the cache is updated in place.

A cache input and its output are bound to one and the same buffer, so that the scatter operators
write the new slots and copy nothing.
"""

from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import EngineError
from ..machine import physical_cores
from ..manifest import Graph, Port
from .base import Engine, EngineInfo, Ids, State

__all__ = ["LOWERINGS", "OrtEngine", "obstacle"]

PROVIDER = "CPUExecutionProvider"
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
# Older versions lack the operators of the lowering, or compute them wrongly.
MINIMUM_VERSION = {"ort": (1, 25), "standard": (1, 25), "legacy": (1, 14)}
LOWERINGS = tuple(MINIMUM_VERSION)  # that this engine runs, the best first
LOG_ERRORS_ONLY = 3
# How long idle threads wait for the next operator before they sleep. The default, some 40 ms, keeps
# all cores busy after each call; then a decode that follows a prefill has to share them.
SPIN_MICROSECONDS = "1000"
# x86 processors without VNNI add products of uint8 and int8 in 16 bits, which overflows: without
# this, int8 prompts are wrong there (by half the largest logit). Where there is VNNI, it does
# nothing.
NO_OVERFLOW = "session.x64quantprecision"
# Up to so many new tokens the decoder graph is used, so that short steps, those that check drafts
# among them, compute what single steps do; beyond, the prefill graph is the faster one.
SHORT_STEP = 16


class OrtEngine(Engine):
    """A decoder in a session on the CPU provider, and perhaps another one for long steps."""

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        prefill: Graph | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: where they lie.
            graph: the decoder.
            prefill: a graph for long steps, or None if the decoder does these as well.
            threads: threads inside an operator; None: the physical cores.
        """
        self.graph = graph
        self.runtime = _import_onnxruntime()
        self.threads = threads or physical_cores()
        self.session = self._load(bundle, graph)
        self.prefill = None if prefill is None else self._load(bundle, prefill)

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        return EngineInfo("onnxruntime", self.runtime.__version__, "cpu", self.threads)

    def new_state(self, batch: int, context: int) -> "OrtState":
        """Return an empty cache for `batch` rows of up to `context` tokens."""
        if self.session is None:
            raise EngineError("the model was closed")
        return OrtState(self.session, self.prefill, self.graph, batch, context)

    def close(self) -> None:
        """Drop the sessions, which frees the weights."""
        self.session = self.prefill = None

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        reason = obstacle(graph, bundle.manifest.precision)
        if reason is not None:
            raise EngineError(reason)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        options.add_session_config_entry(NO_OVERFLOW, "1")
        try:
            return self.runtime.InferenceSession(
                str(bundle.file(graph.file)), options, providers=[PROVIDER]
            )
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(
                f"onnxruntime {self.runtime.__version__} cannot load {graph.file}: {error}"
            ) from error


class OrtState(State):
    """The cache of one generation, and the bindings of its steps, each made when first needed.

    A cache input and its output are one buffer, so that the operators write the new slots in place.
    """

    def __init__(self, session: Any, prefill: Any, graph: Graph, batch: int, context: int) -> None:
        super().__init__(batch, context)
        self.session, self.prefill, self.graph = session, prefill or session, graph
        self.caches = [_cache(port, batch, context) for port in graph.caches()]
        self.single = BoundStep(session, graph, self.caches, 1, 1)
        self.next_ids, self.past_len = self.single.ids, self.single.past_len
        self.last = self.single
        self.bound: dict[tuple[int, int], BoundStep] = {}
        # GroupQueryAttention takes several tokens on a filled cache for one row only.
        self.row_by_row = batch > 1 and _has_role(graph, "seqlens_k")

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""
        return self.last.logits

    def _decode(self, longest: int) -> None:
        self.last = self.single
        self.single.run_bound(longest)

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        length, positions = ids.shape[1], logit_positions.shape[1]
        if self.row_by_row and length > 1 and past_len.any():
            self.last = self._run_rows(ids, past_len, logit_positions)
            return
        step = self.bound.get((length, positions))
        if step is None:
            step = self._bound(self.caches, length, positions)
            if length > SHORT_STEP:  # buffers of long steps are large: keep one
                self.bound = {key: old for key, old in self.bound.items() if key[0] <= SHORT_STEP}
            self.bound[length, positions] = step
        self.last = step
        step.run(ids, past_len, logit_positions)

    def _run_rows(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> "BoundStep":
        """Run each row by itself, on its part of the cache."""
        length, positions = ids.shape[1], logit_positions.shape[1]
        whole = self._bound(self.caches, length, positions)
        for row in range(self.batch):
            part = slice(row, row + 1)
            step = self._bound([cache[part] for cache in self.caches], length, positions)
            step.run(ids[part], past_len[part], logit_positions[part])
            whole.logits[part] = step.logits
        return whole

    def _bound(self, caches: list[NDArray[Any]], length: int, positions: int) -> "BoundStep":
        session = self.session if length <= SHORT_STEP else self.prefill
        return BoundStep(session, self.graph, caches, length, positions)


class BoundStep:
    """A step of `length` new tokens and `positions` rows of logits, with every buffer bound once.

    Attributes:
        ids: int64 [B, length], new tokens.
        past_len: int64 [B], how many slots of each row are filled.
        logit_positions: int64 [B, positions].
        logits: float32 [B, positions, V], the result.
    """

    def __init__(
        self,
        session: Any,
        graph: Graph,
        caches: list[NDArray[Any]],
        length: int,
        positions: int,
    ) -> None:
        self.session, self.length, self.positions = session, length, positions
        batch = len(caches[0])
        self.ids = np.zeros((batch, length), dtype=np.int64)
        self.past_len = np.zeros(batch, dtype=np.int64)
        self.logit_positions = np.zeros((batch, positions), dtype=np.int64)
        self.logits = np.zeros((batch, positions, _vocab_size(graph)), dtype=np.float32)
        # What lowerings have in place of past_len; with one new token, its slot is past_len.
        self.seqlens_k = np.zeros(batch, dtype=np.int32)
        self.total = np.zeros(1, dtype=np.int32)
        self.offsets = np.arange(length, dtype=np.int64)
        self.slots = self.past_len if length == 1 else np.zeros((batch, length), dtype=np.int64)
        # ONNX Runtime keeps only addresses: these references keep the memory alive.
        self.caches = caches
        self.binding = session.io_binding()
        self._bind(graph)

    def run(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        """Copy the inputs into the buffers and run."""
        self.ids[:] = ids
        self.past_len[:] = past_len
        self.logit_positions[:] = logit_positions
        self.run_bound(int(past_len.max()))

    def run_bound(self, longest: int) -> None:
        """Run what the buffers hold; `longest` is the largest of `past_len`."""
        np.add(self.past_len, self.length - 1, out=self.seqlens_k, casting="unsafe")
        self.total[0] = longest + self.length
        if self.length > 1:
            np.add(self.past_len[:, None], self.offsets, out=self.slots)  # (B, length)
        try:
            self.session.run_with_iobinding(self.binding)
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(f"onnxruntime failed while running the model: {error}") from error

    def _bind(self, graph: Graph) -> None:
        by_role: dict[str, NDArray[Any]] = {
            "ids": self.ids,
            "past_len": self.past_len,
            "logit_positions": self.logit_positions,
            "seqlens_k": self.seqlens_k,
            "total_sequence_length": self.total,
            "position_ids": self.slots,
        }
        caches = iter(self.caches)
        batch = len(self.past_len)
        sizes = {"batch": batch, "new_tokens": self.length, "logit_positions": self.positions}
        for port in graph.inputs:
            array = next(caches) if port.role == "cache" else by_role[port.role]
            shape = array.shape
            if port.role != "cache":
                shape = tuple(size if isinstance(size, int) else sizes[size] for size in port.shape)
            where = ("cpu", 0, array.dtype, shape, array.ctypes.data)
            self.binding.bind_input(port.name, *where)
            if port.present is not None:
                self.binding.bind_output(port.present, *where)
        logits = self.logits
        self.binding.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)


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


def obstacle(graph: Graph, precision: str) -> str | None:
    """Return why the installed onnxruntime cannot run `graph` on the CPU, or None if it can."""
    version = _import_onnxruntime().__version__
    needed = MINIMUM_VERSION.get(graph.lowering, (0, 0))
    if tuple(int(part) for part in version.split(".")[:2]) < needed:
        return (
            f"the graph {graph.name} needs onnxruntime {needed[0]}.{needed[1]} or later; "
            f"{version} is installed"
        )
    if precision == "bfloat16":
        return f"onnxruntime runs no bfloat16 on a CPU, and {graph.name} is in bfloat16: use a GPU"
    return None


def _cache(port: Port, batch: int, context: int) -> NDArray[Any]:
    sizes = {"batch": batch, "context": context}
    shape = [size if isinstance(size, int) else sizes[size] for size in port.shape]
    return np.zeros(shape, dtype=port.dtype)


def _has_role(graph: Graph, role: str) -> bool:
    return any(port.role == role for port in graph.inputs)


def _vocab_size(graph: Graph) -> int:
    for port in graph.outputs:
        if port.role == "logits" and isinstance(port.shape[-1], int):
            return port.shape[-1]
    raise EngineError(f"the graph {graph.name} has no logits of a fixed size")
