"""ONNX Runtime on CUDA: cache, logits and candidates stay on the device.

A decode step copies one small block of inputs to the device, runs, and copies one small block of
candidates back. It allocates memory only the first time that it runs with a given number of rows.
All addresses are fixed, so that the step can be replayed as a CUDA graph, under these rules:

- Only steps of one token per row are captured, because prompts differ in length.
- A capture belongs to a thread. So at most two threads run steps, see `in_own_thread`.
- A capture belongs to the addresses of one set of buffers, and to a number of rows. So buffers are
  kept for later texts of the same context and as many rows or fewer. At most MOST_GRAPHS steps of
  an engine are captured; further steps run without a graph, and so do all steps with `cuda_graph`
  off.
- Operators that read the longest length on the host (GroupQueryAttention) always get the whole
  context, with or without CUDA graphs. This value only chooses a kernel; the device has the length
  of each row.
"""

import logging
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.vocabulary import ITEM_BYTES
from ...cuda.cudart import Cudart
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import EventClock, span_of
from ...errors import EdgeGPTWarning, EngineError
from ..base import Engine, EngineInfo
from ..candidates import Candidates
from ..moves import SPARE, moves_in_order
from ..options import DEFAULTS, EngineOptions
from .binding import (
    BoundState,
    Place,
    StepInputs,
    StepShape,
    bind_graph,
    place_of,
)
from .cuda_provider import check_placement, open_candidates, provider, replays_rightly
from .device import Block, DeviceMemory
from .picker import CandidateStep, is_worthwhile
from .session import LOG_ERRORS_ONLY, import_onnxruntime, open_session

__all__ = ["CudaEngine"]

logger = logging.getLogger(__name__)

MOST_GRAPHS = 32
PLAIN_RUNS = 4  # runs before a step is captured, if its number of rows is not the state's
NO_GRAPH = -1  # the graph id with which a run neither captures nor replays
KEPT = 4  # sets of buffers that are kept for later texts
ALIGNMENT = 256  # bytes, of tensors in a block; as cudaMalloc guarantees


class CudaEngine(Engine):
    """A decoder in a session on the CUDA provider."""

    device = "cuda"

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        options: EngineOptions = DEFAULTS,
        *,
        clock: EventClock | None = None,
    ) -> None:
        """Load the graph.

        Args:
            bundle: the bundle that holds it.
            graph: a decoder that CUDA can run according to `support`.
            options: `threads` are host threads, which compute shapes; the default is one. TF32
                keeps 10 bits of the mantissa. Steps are captured and replayed only if this version
                of onnxruntime replays them correctly.
            clock: times the device's part of every step, on the clock's stream.
        """
        self.graph, self.tf32, self.clock = graph, options.tf32, clock
        self.threads = options.threads or 1
        self.runtime = import_onnxruntime("cuda")
        self.cuda_graph = options.cuda_graph and self._may_replay()
        self.owner, self.other = threading.current_thread(), ThreadPoolExecutor(1, "edgegpt-cuda")
        self.picker = self._open_candidates()
        self.memory = self._open_memory()
        self.session = self._load(bundle, graph)
        self.kept: list[_Buffers] = []
        self.captured = 0

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        version = self.runtime.__version__
        device = f"{self.device}-tf32" if self.tf32 else self.device
        return EngineInfo("onnxruntime", version, device, self.threads, self.tf32)

    def new_state(self, rows: int, context: int) -> "CudaState":
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        if self.session is None:
            raise EngineError("the model was closed")
        return CudaState(self, self._take(rows, context), rows)

    def close(self) -> None:
        """Drop the sessions and the kept buffers."""
        with DEVICE_LOCK:
            self.session = self.picker = None
            self.kept = []
        self.other.shutdown()

    def in_own_thread(self, run: Callable[[], None]) -> None:
        """Run a step in the thread that opened the engine, or in one that serves all other threads.

        ONNX Runtime captures CUDA graphs anew for each thread, and keeps them and cuBLAS handles
        after the thread has ended. A server with a thread per request would leak them.
        """
        if self.session is None:
            raise EngineError("the model was closed")
        if not self.cuda_graph or threading.current_thread() is self.owner:
            run()
        else:
            self.other.submit(run).result()

    def give_back(self, buffers: "_Buffers") -> None:
        """Keep buffers for the next text that fits them, unless the engine was closed."""
        with DEVICE_LOCK:
            if self.session is not None:
                self.kept = [*self.kept, buffers][-KEPT:]

    def run_options(self, *, capture: bool) -> Any:
        """Return the options for the runs of a step; each captured step has its own graph id."""
        if not self.cuda_graph:
            return None
        number = NO_GRAPH
        with DEVICE_LOCK:
            if capture and self.captured < MOST_GRAPHS:
                self.captured += 1
                number = self.captured
        options = self.runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options

    def _take(self, rows: int, context: int) -> "_Buffers":
        """Return the smallest kept buffers that fit, or new ones; free kept ones if room is short.

        Kept buffers may have more rows than asked. So after the largest batch, a smaller one only
        has to capture the step for its own number of rows.
        """
        with DEVICE_LOCK:
            fitting = [one for one in self.kept if one.context == context and one.rows >= rows]
            if fitting:
                best = min(fitting, key=lambda buffers: buffers.rows)
                self.kept = [one for one in self.kept if one is not best]
                best.single(rows, at_once=True)
                return best
            try:
                return _Buffers(self, rows, context)
            except EngineError:
                if not self.kept:
                    raise
                self.kept = []
                return _Buffers(self, rows, context)

    def _may_replay(self) -> bool:
        """Return whether steps of the graph can be replayed; warn if only a newer version can."""
        if replays_rightly(self.runtime, self.graph):
            return True
        told = (
            f"onnxruntime {self.runtime.__version__} replays CUDA graphs of {self.graph.name} "
            f"wrongly, so steps run kernel by kernel, which is slower: "
            f'pip install "onnxruntime-gpu>=1.31"'
        )
        warnings.warn(told, EdgeGPTWarning, stacklevel=5)
        return False

    def _open_candidates(self) -> Any:
        return open_candidates(self.runtime)

    def _open_memory(self) -> DeviceMemory:
        return DeviceMemory(Cudart(self.runtime))

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # Keep the weights out of the arena, which doubles when it grows.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        stream = self.clock.stream if self.clock else None
        chosen = provider(tf32=self.tf32, cuda_graph=self.cuda_graph, stream=stream)
        with DEVICE_LOCK:
            session = open_session(self.runtime, bundle, graph, options, [chosen])
        check_placement(session, graph)
        return session


class CudaState(BoundState):
    """A cache in buffers that its engine lends to it."""

    def __init__(self, engine: CudaEngine, buffers: "_Buffers", rows: int) -> None:
        self.engine = engine
        self.buffers: _Buffers | None = buffers
        super().__init__(engine.graph, rows, buffers.context)

    def topk(self, count: int) -> list[list[Candidates]] | None:
        """Return the best logits of the last step; None if fetching all logits costs no more."""
        step = self.last
        return step.topk(count) if isinstance(step, DeviceStep) else None

    def close(self) -> None:
        """Return the buffers to the engine.

        They need no cleaning: all their values are finite, and a new text masks old slots.
        """
        buffers, self.buffers = self.buffers, None
        if buffers is not None:
            self.bound.clear()
            self.engine.give_back(buffers)

    def _single(self, count: int) -> "DeviceStep":
        return self._own().single(count)

    def _bind(self, shape: StepShape) -> "DeviceStep":
        options = self.engine.run_options(capture=False)
        return DeviceStep(self.engine, self._own(), shape, options)

    def _decode(self, count: int, longest: int) -> None:
        step = self.single = self.last = self._single(count)
        step.inputs.ids[:], step.inputs.past_len[:] = self.next_ids[:count], self.past_len[:count]
        step.run_bound(longest)

    def _copy_rows(self, sources: list[int], targets: list[int], slots: int) -> None:
        self._own().copy_rows(sources, targets, slots)

    def _own(self) -> "_Buffers":
        assert self.buffers is not None, "the state was closed"
        return self.buffers


class _Buffers:
    """A cache for `rows` texts of `context` tokens, and the decode steps that are bound to it."""

    def __init__(self, engine: CudaEngine, rows: int, context: int) -> None:
        self.engine, self.rows, self.context = engine, rows, context
        self.singles: dict[int, DeviceStep] = {}
        self.blocks, self.places, self.widths = [], [], []
        sizes = {"batch": rows, "context": context}
        for port in engine.graph.caches():
            block = engine.memory.allocate(
                port.nbytes(sizes), f"cache ({port.name} of {rows} rows of {context} tokens)"
            )
            self.blocks.append(block)
            self.places.append(engine.memory.place(block, port.dtype, port.sized(sizes)))
            self.widths.append(port.itemsize)
        total = sum(block.size for block in self.blocks) / 1e6
        logger.debug("a cache of %.1f MB on CUDA for %d rows of %d tokens", total, rows, context)
        # All decode steps share this block for their logits: only the last step's are wanted.
        size = rows * engine.graph.vocab_size * ITEM_BYTES["float32"]
        self.logits = engine.memory.allocate(size, "logits")
        self.spare: Block | None = None  # holds a row while rows change places
        self.single(rows, at_once=True)

    def single(self, rows: int, *, at_once: bool = False) -> "DeviceStep":
        """Return the step of one token for the first `rows`.

        It is captured `at_once`, or after PLAIN_RUNS runs. While the texts of a batch end one after
        the other, most numbers of rows last only for a few tokens and are not worth a graph.
        """
        step = self.singles.get(rows)
        if step is None:
            options = self.engine.run_options(capture=at_once)
            shape = StepShape(0, rows, 1, 1)
            step = DeviceStep(self.engine, self, shape, options, self.context, self.logits)
            step.captured = at_once
            self.singles[rows] = step
        elif not step.captured and (at_once or step.runs >= PLAIN_RUNS):
            step.options, step.captured = self.engine.run_options(capture=True), True
        return step

    def cache_rows(self, rows: slice) -> list[Place]:
        """Return the places of `rows` in each cache."""
        return [
            place.rows(rows.start, rows.stop, width)
            for place, width in zip(self.places, self.widths, strict=True)
        ]

    def copy_rows(self, sources: list[int], targets: list[int], slots: int) -> None:
        """Copy the first `slots` slots of rows; see `State.reorder`."""
        moves, memory = moves_in_order(sources, targets), self.engine.memory
        with DEVICE_LOCK:
            if any(SPARE in move for move in moves) and self.spare is None:
                size = max(block.size for block in self.blocks) // self.rows
                self.spare = memory.allocate(size, "row on its way")
            for place, width in zip(self.places, self.widths, strict=True):
                _, heads, context, head_dim = place.shape
                pitch = context * head_dim * width  # bytes from one head of a row to the next
                at = {row: place.address + row * heads * pitch for row in range(self.rows)}
                if self.spare is not None:
                    at[SPARE] = self.spare.address
                for source, target in moves:
                    line = slots * head_dim * width
                    memory.copy_lines(at[target], at[source], line, heads, pitch)
            memory.wait()


class DeviceStep:
    """A step on the device's memory."""

    def __init__(
        self,
        engine: CudaEngine,
        buffers: _Buffers,
        shape: StepShape,
        options: Any,
        context: int | None = None,
        result: Block | None = None,
    ) -> None:
        """Bind rows of the cache.

        If `context` is given, operators get it as the longest length. The logits go to the
        beginning of `result`; None: to a new block.
        """
        if engine.session is None:
            raise EngineError("the model was closed")
        caches, vocabulary = buffers.cache_rows(shape.rows), engine.graph.vocab_size
        # Keeps the memory alive: a step may still wait to run when its state has been dropped.
        self.blocks = buffers.blocks
        self.engine, self.memory, self.session = engine, engine.memory, engine.session
        self.options, self.context, self.length = options, context, shape.length
        sizes = (shape.count, shape.length, shape.positions)
        mirror = _Mirror(*sizes)
        self.inputs = StepInputs.of_size(*sizes, mirror.zeros)
        self.host, self.device = mirror.data, self.memory.allocate(mirror.data.size, "inputs")
        logits = (shape.count, shape.positions, vocabulary)
        self.size = prod(logits) * ITEM_BYTES["float32"]
        self.result = result or self.memory.allocate(self.size, "logits")
        self.where = self.memory.place(self.result, "float32", logits)
        self.runs, self.captured = 0, False  # captured: whether it has asked for a CUDA graph
        self.fetched: NDArray[np.float32] | None = None
        self.pickers: dict[int, CandidateStep] = {}
        self.binding = self.session.io_binding()
        bind_graph(self.binding, engine.graph, self.inputs, self._place, caches, self.where)

    def run_bound(self, longest: int) -> None:
        """Run what the inputs hold; `longest` is the largest of `past_len`."""
        self.inputs.derive(longest if self.context is None else self.context - self.length)
        self.fetched = None
        self.runs += 1
        self.engine.in_own_thread(self._run)

    def _run(self) -> None:
        with DEVICE_LOCK:
            self.device.write(self.host)
            clock = self.engine.clock
            with span_of(clock, clock and clock.stream):
                self.memory.run(self.session, self.binding, self.options)

    def logits(self) -> NDArray[np.float32]:
        """Return the result, float32 [B, P, V]; it is copied to the host once per run."""
        if self.fetched is None:
            raw = self.result.read(self.size)
            self.fetched = raw.view(np.float32).reshape(self.where.shape)  # (B, P, V)
        return self.fetched

    def topk(self, count: int) -> list[list[Candidates]] | None:
        """Return the best `count` logits of each row and position, if that is worthwhile."""
        if self.fetched is not None or not is_worthwhile(count, self.where.shape[-1]):
            return None
        picker = self.pickers.get(count)
        if picker is None:
            picker = CandidateStep(self.engine.picker, self.memory, self.where, self.result, count)
            self.pickers = {count: picker}
        return picker.run(self.logits)

    def _place(self, role: str, array: NDArray[Any]) -> Place:
        """Return where the graph reads an input. Only the longest length is read on the host."""
        if role == "total_sequence_length":
            return place_of(array)
        offset = array.ctypes.data - self.host.ctypes.data
        return self.memory.place(self.device, str(array.dtype), array.shape, offset)


class _Mirror:
    """The inputs of a step in one block, so that a single copy brings them to the device."""

    def __init__(self, batch: int, length: int, positions: int) -> None:
        ids, past_len, rows, seqlens = batch * length, batch, batch * positions, batch
        numbers = 2 * ids + past_len + rows + seqlens
        self.data = np.zeros(numbers * ITEM_BYTES["int64"] + 5 * ALIGNMENT, dtype=np.uint8)
        self.used = 0

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return the next part of the block as an array."""
        size = prod(shape) * np.dtype(dtype).itemsize
        part = self.data[self.used : self.used + size].view(dtype).reshape(shape)
        self.used += -(-size // ALIGNMENT) * ALIGNMENT
        return part
