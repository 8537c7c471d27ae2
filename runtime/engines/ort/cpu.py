"""ONNX Runtime on the CPU: all ports are bound to numpy arrays, the cache is updated in place."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.widening import wide_graph
from ...errors import EngineError
from ...machine import available_memory, fast_cores, processor_kind
from ...quantity import quantity
from ..base import MANY_ROWS, Engine, EngineInfo, Ids, Sources
from ..calls import ENGINE_CALLS
from .binding import (
    SHORT_STEP,
    BoundSources,
    BoundState,
    StepInputs,
    StepShape,
    bind_graph,
    place_of,
)
from .kernels import int8_options
from .session import LOG_ERRORS_ONLY, import_onnxruntime, open_session

__all__ = ["OrtEngine"]

logger = logging.getLogger(__name__)

PROVIDER = "CPUExecutionProvider"
# How long idle threads spin before they sleep. The default, about 40 ms, keeps all cores busy after
# each call, so that a decode step after a prefill has to share them.
SPIN_MICROSECONDS = "1000"
# GroupQueryAttention computes the scores of a piece with all tokens up to its end, and then masks
# those that come later. Short pieces have fewer of these, but each reads the weights again.
PROMPT_PIECE = 384
Caches = list[NDArray[Any]]


class OrtEngine(Engine):
    """A decoder in a session on the CPU provider, and perhaps a second graph for long steps.

    An encoder has a session of its own. Bundles in float16 are computed in float32, unless they are
    to be computed as they are written.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        prefill: Graph | None = None,
        threads: int | None = None,
        *,
        encoder: Graph | None = None,
        as_written: bool = False,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: the bundle that holds them.
            graph: the decoder.
            prefill: a graph for long steps; None if the decoder also runs those.
            threads: threads inside an operator; None: as many as fast cores.
            encoder: the encoder, if the model has one.
            as_written: compute in float16 what a float16 bundle computes in float16.
        """
        self.widens = bundle.manifest.precision == "float16" and not as_written
        self.graph, self.encoder = graph, encoder
        if self.widens:
            self.graph = wide_graph(graph)
            self.encoder = None if encoder is None else wide_graph(encoder)
        self.runtime = import_onnxruntime("cpu")
        self.threads, self.processor = threads or fast_cores(), processor_kind()
        self.session = self._load(bundle, graph)
        self.prefill = None if prefill is None else self._load(bundle, prefill)
        self.encoding = None if encoder is None else self._load(bundle, encoder)

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        version = self.runtime.__version__
        return EngineInfo("onnxruntime", version, "cpu", self.threads, processor=self.processor)

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> "OrtState":
        """Return an empty cache for `rows` texts of up to `context` tokens; see `Engine`."""
        if self.session is None:
            raise EngineError("the model was closed")
        return OrtState(self, rows, context, sources)

    def slots(self, needed: int, context: int) -> int:
        """Return what the call needs: new memory costs time where it is first written.

        That is more than the slots, because numpy asks for pages of 2 MB.
        """
        return min(needed, context)

    def encode(self, ids: Ids, lengths: Ids) -> Sources:
        """Encode sources; see `Engine`."""
        if self.encoder is None:
            return super().encode(ids, lengths)
        encoding = self.encoding
        if encoding is None:
            raise EngineError("the model was closed")
        arrays = {"source_ids": ids, "source_len": lengths}
        fed = {port.name: arrays[port.role] for port in self.encoder.inputs}
        try:
            with ENGINE_CALLS:
                caches = encoding.run([port.name for port in self.encoder.sources()], fed)
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(f"onnxruntime failed while encoding: {error}") from error
        return Sources(lengths, caches)

    def close(self) -> None:
        """Drop the sessions, which frees the weights."""
        self.session = self.prefill = self.encoding = None

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        for name, value in int8_options().items():
            options.add_session_config_entry(name, value)
        return open_session(self.runtime, bundle, graph, options, [PROVIDER], wide=self.widens)


class OrtState(BoundState):
    """A cache as numpy arrays.

    Steps of up to SHORT_STEP new tokens run the decoder graph, so that short steps, such as those
    that check drafts, compute the same as single steps. Longer steps, and those of MANY_ROWS rows
    or more, run the prefill graph, which is faster then.
    """

    def __init__(
        self, engine: OrtEngine, rows: int, context: int, sources: Sources | None = None
    ) -> None:
        self.engine, self.graph = engine, engine.graph
        self.session, self.prefill = engine.session, engine.prefill or engine.session
        graph = self.graph
        self.sources = None if sources is None else _own(sources)
        self.caches = _new_caches(graph, {"batch": rows, "context": context})
        size = sum(cache.nbytes for cache in self.caches) / 1e6
        what = quantity(rows, "row"), quantity(context, "token")
        logger.debug("a cache of %.1f MB for %s of %s", size, *what)
        self.singles: dict[int, BoundStep] = {}
        self.single_logits = np.zeros((rows, 1, graph.vocab_size), dtype=np.float32)
        super().__init__(graph, rows, context, None if sources is None else sources.count)
        if graph.lowering == "ort":
            self.prompt_piece = PROMPT_PIECE

    def _single(self, count: int) -> "BoundStep":
        step = self.singles.get(count)
        if step is None:
            caches = [cache[:count] for cache in self.caches]
            inputs = StepInputs(self.next_ids[:count], self.past_len[:count], 1)
            logits, sources = self.single_logits[:count], self._sources_of(slice(0, count))
            session = self._session(count, 1)
            step = BoundStep(session, self.graph, caches, inputs, logits, sources)
            self.singles[count] = step
        return step

    def _bind(self, shape: StepShape) -> "BoundStep":
        session = self._session(shape.count, shape.length)
        caches = [cache[shape.rows] for cache in self.caches]
        inputs = StepInputs.of_size(shape.count, shape.length, shape.positions)
        sizes = (shape.count, shape.positions, self.graph.vocab_size)
        logits, sources = np.zeros(sizes, dtype=np.float32), self._sources_of(shape.rows)
        return BoundStep(session, self.graph, caches, inputs, logits, sources)

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        self._check_open()
        super()._run(ids, past_len, logit_positions, first)

    def _decode(self, count: int, longest: int) -> None:
        self._check_open()
        super()._decode(count, longest)

    def _check_open(self) -> None:
        """End a text whose model was closed by another thread."""
        if self.engine.session is None:
            raise EngineError("the model was closed")

    def _session(self, rows: int, length: int) -> Any:
        """Return what runs a step of so many rows and new tokens in each."""
        return self.prefill if length > SHORT_STEP or rows >= MANY_ROWS else self.session

    def _sources_of(self, rows: slice) -> BoundSources | None:
        """Return the sources that some rows attend to."""
        if self.sources is None:
            return None
        part = slice(rows.start // self.rows_each, rows.stop // self.rows_each)
        places = [place_of(cache[part]) for cache in self.sources.caches]
        return BoundSources(self.sources.lengths[part], places)

    def _move_sources(self, parents: list[int]) -> None:
        assert self.sources is not None, "only a state with sources moves any"
        for array in (self.sources.lengths, *self.sources.caches):
            array[: len(parents)] = array[parents]

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        part, apart = slice(since, slots), set(sources).isdisjoint(targets)
        for cache in self.caches:  # [R, K, S, D]
            if not apart:  # indexing by a list makes a copy first
                cache[targets, :, part] = cache[sources, :, part]
                continue
            for source, target in zip(sources, targets, strict=True):
                cache[target, :, part] = cache[source, :, part]

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        self.caches[cache][row, :, : values.shape[1]] = values

    def _past(self, row: int, slots: int) -> list[NDArray[np.float32]]:
        return [cache[row, :, :slots].astype(np.float32) for cache in self.caches]


def _new_caches(graph: Graph, sizes: dict[str, int]) -> Caches:
    """Return the caches of a graph, all zero.

    Raises:
        EngineError: if this machine has no room for them. A single row may have more: its memory
            is taken only where it is written, and most texts end before.
    """
    size = sum(port.nbytes(sizes) for port in graph.caches())
    there = available_memory()
    told = "" if there is None else f", and {there / 1e6:,.1f} MB are there"
    no_room = EngineError(
        f"there is no room for a cache of {size / 1e6:,.1f} MB{told}, for "
        f"{quantity(sizes['batch'], 'row')} of {quantity(sizes['context'], 'token')}: "
        f"choose a smaller context or batch"
    )
    if there is not None and size > there and sizes["batch"] > 1:
        raise no_room
    try:
        return [np.zeros(port.sized(sizes), dtype=port.dtype) for port in graph.caches()]
    except (MemoryError, ValueError) as error:  # ValueError: a size beyond numpy's range
        raise no_room from error


def _own(sources: Sources) -> Sources:
    """Return sources that a state may move; a single one never moves."""
    if sources.count == 1:
        return sources
    return Sources(sources.lengths.copy(), [cache.copy() for cache in sources.caches])


class BoundStep:
    """A step on numpy memory: the cache's rows, the inputs, and the logits [B, P, V]."""

    def __init__(
        self,
        session: Any,
        graph: Graph,
        caches: Caches,
        inputs: StepInputs,
        logits: NDArray[np.float32],
        sources: BoundSources | None = None,
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
            sources,
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
