"""ONNX Runtime on the CPU: all ports are bound to numpy arrays, the cache is updated in place."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...errors import EngineError
from ...machine import physical_cores
from ..base import Engine, EngineInfo
from .binding import (
    SHORT_STEP,
    BoundState,
    StepInputs,
    StepShape,
    bind_graph,
    place_of,
)
from .session import LOG_ERRORS_ONLY, import_onnxruntime, open_session

__all__ = ["OrtEngine"]

logger = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"
# How long idle threads spin before they sleep. The default, about 40 ms, keeps all cores busy after
# each call, so that a decode step after a prefill has to share them.
SPIN_MICROSECONDS = "1000"
# x86 processors without VNNI add products of uint8 and int8 in 16 bits, which overflow. Without
# this option, int8 prompts are wrong there (by half the largest logit). With VNNI it does nothing.
NO_OVERFLOW = "session.x64quantprecision"

Caches = list[NDArray[Any]]


class OrtEngine(Engine):
    """A decoder in a session on the CPU provider, and perhaps a second graph for long steps."""

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        prefill: Graph | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: the bundle that holds them.
            graph: the decoder.
            prefill: a graph for long steps; None if the decoder also runs those.
            threads: threads inside an operator; None: as many as physical cores.
        """
        self.graph = graph
        self.runtime = import_onnxruntime("cpu")
        self.threads = threads or physical_cores()
        self.session = self._load(bundle, graph)
        self.prefill = None if prefill is None else self._load(bundle, prefill)

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        return EngineInfo("onnxruntime", self.runtime.__version__, "cpu", self.threads)

    def new_state(self, rows: int, context: int) -> "OrtState":
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        if self.session is None:
            raise EngineError("the model was closed")
        return OrtState(self.session, self.prefill, self.graph, rows, context)

    def close(self) -> None:
        """Drop the sessions, which frees the weights."""
        self.session = self.prefill = None

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        options.add_session_config_entry(NO_OVERFLOW, "1")
        return open_session(self.runtime, bundle, graph, options, [PROVIDER])


class OrtState(BoundState):
    """A cache as numpy arrays.

    Steps of up to SHORT_STEP new tokens run the decoder graph, so that short steps, such as those
    that check drafts, compute the same as single steps. Longer steps run the prefill graph, which
    is faster.
    """

    def __init__(self, session: Any, prefill: Any, graph: Graph, rows: int, context: int) -> None:
        self.session, self.prefill, self.graph = session, prefill or session, graph
        self.caches = _new_caches(graph, {"batch": rows, "context": context})
        size = sum(cache.nbytes for cache in self.caches) / 1e6
        logger.debug("a cache of %.1f MB for %d rows of %d tokens", size, rows, context)
        self.singles: dict[int, BoundStep] = {}
        self.single_logits = np.zeros((rows, 1, graph.vocab_size), dtype=np.float32)
        super().__init__(graph, rows, context)

    def _single(self, count: int) -> "BoundStep":
        step = self.singles.get(count)
        if step is None:
            caches = [cache[:count] for cache in self.caches]
            inputs = StepInputs(self.next_ids[:count], self.past_len[:count], 1)
            step = BoundStep(self.session, self.graph, caches, inputs, self.single_logits[:count])
            self.singles[count] = step
        return step

    def _bind(self, shape: StepShape) -> "BoundStep":
        session = self.session if shape.length <= SHORT_STEP else self.prefill
        caches = [cache[shape.rows] for cache in self.caches]
        inputs = StepInputs.of_size(shape.count, shape.length, shape.positions)
        sizes = (shape.count, shape.positions, self.graph.vocab_size)
        return BoundStep(session, self.graph, caches, inputs, np.zeros(sizes, dtype=np.float32))

    def _copy_rows(self, sources: list[int], targets: list[int], slots: int) -> None:
        for cache in self.caches:  # [R, K, S, D]; indexing by a list makes a copy first
            cache[targets, :, :slots] = cache[sources, :, :slots]

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        self.caches[cache][row, :, : values.shape[1]] = values


def _new_caches(graph: Graph, sizes: dict[str, int]) -> Caches:
    """Return the caches of a graph, all zero.

    Raises:
        EngineError: if this machine has no room for them.
    """
    try:
        return [np.zeros(port.sized(sizes), dtype=port.dtype) for port in graph.caches()]
    except (MemoryError, ValueError) as error:  # ValueError: a size beyond numpy's range
        size = sum(port.nbytes(sizes) for port in graph.caches()) / 1e6
        raise EngineError(
            f"there is no room for a cache of {size:,.1f} MB, for {sizes['batch']} rows of "
            f"{sizes['context']} tokens: choose a smaller context or batch"
        ) from error


class BoundStep:
    """A step on numpy memory: the cache's rows, the inputs, and the logits [B, P, V]."""

    def __init__(
        self,
        session: Any,
        graph: Graph,
        caches: Caches,
        inputs: StepInputs,
        logits: NDArray[np.float32],
    ) -> None:
        self.session, self.inputs, self.result = session, inputs, logits
        self.caches = caches  # keeps their memory alive
        self.binding = session.io_binding()
        bind_graph(
            self.binding,
            graph,
            self.inputs,
            lambda _, array: place_of(array),
            [place_of(cache) for cache in caches],
            place_of(self.result),
        )

    def run_bound(self, longest: int) -> None:
        """Run what the inputs hold; `longest` is the largest of `past_len`."""
        self.inputs.derive(longest)
        try:
            self.session.run_with_iobinding(self.binding)
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(f"onnxruntime failed while running the model: {error}") from error

    def logits(self) -> NDArray[np.float32]:
        """Return the result, float32 [B, P, V]. Valid until the next run."""
        return self.result
