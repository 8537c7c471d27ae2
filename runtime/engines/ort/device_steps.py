"""The buffers of the CUDA engine: a cache on the device, and the steps that are bound to it."""

import logging
import warnings
from collections.abc import Callable
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.vocabulary import ITEM_BYTES
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import span_of
from ...errors import EdgeGPTWarning, EngineError
from ...quantity import quantity
from ..filling import row_bytes
from ..moves import SPARE, moves_in_order
from .binding import Place, StepInputs, StepShape, bind_graph, place_of
from .device import Block, Recording

if TYPE_CHECKING:
    from .cuda import CudaEngine

__all__ = ["Buffers", "DeviceStep"]

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]

FIRST_RUNS = 2  # runs before a step may be captured; ONNX Runtime allocates memory in them
PLAIN_RUNS = 4  # the same, if its number of rows is not the state's
MOST_STEPS = 16  # numbers of rows for which a set of buffers keeps a step
MOST_FAILURES = 3  # captures may be spoilt by other users of the device; then the engine gives up
ALIGNMENT = 256  # bytes, of tensors in a block; as cudaMalloc guarantees


class Buffers:
    """A cache for `rows` texts of `context` tokens, and the decode steps that are bound to it."""

    def __init__(self, engine: "CudaEngine", rows: int, context: int) -> None:
        self.engine, self.rows, self.context = engine, rows, context
        self.singles: dict[int, DeviceStep] = {}
        self.blocks, self.places, self.widths = [], [], []
        sizes = {"batch": rows, "context": context}
        for port in engine.graph.caches():
            what = f"{port.name} of {quantity(rows, 'row')} of {quantity(context, 'token')}"
            block = engine.memory.allocate(port.nbytes(sizes), f"cache ({what})")
            self.blocks.append(block)
            self.places.append(engine.memory.place(block, port.dtype, port.sized(sizes)))
            self.widths.append(port.itemsize)
        total = sum(block.size for block in self.blocks) / 1e6
        held = quantity(rows, "row"), quantity(context, "token")
        logger.debug("a cache of %.1f MB on CUDA for %s of %s", total, *held)
        # Steps with one logit position a row share the memory of their logits: only the last
        # step's are wanted.
        size = rows * engine.graph.vocab_size * ITEM_BYTES["float32"]
        self.logits = engine.memory.allocate(size, "logits")
        self.host_logits = engine.memory.host(size)
        self.spare: Block | None = None  # holds a row while rows change places
        self.inputs: Block | None = None  # of prompts
        self.single(rows, at_once=True)

    def single(self, rows: int, *, at_once: bool = False) -> "DeviceStep":
        """Return the step of one token for the first `rows`.

        It is captured after FIRST_RUNS runs if `at_once`, else after PLAIN_RUNS. While the texts of
        a batch end one after the other, most numbers of rows last only for a few tokens and are not
        worth a graph.
        """
        step = self.singles.get(rows)
        if step is None:
            step = DeviceStep(self.engine, self, StepShape(0, rows, 1, 1), self.context)
            self.singles[rows], step.plain_runs = step, PLAIN_RUNS
            if len(self.singles) > MOST_STEPS:
                del self.singles[next(old for old in self.singles if old not in (rows, self.rows))]
        if at_once:
            step.plain_runs = FIRST_RUNS
        return step

    def prompt_inputs(self, size: int, what: str) -> Block:
        """Return memory for the inputs of a prompt; all prompts share it."""
        if self.inputs is None or self.inputs.size < size:
            self.inputs = self.engine.memory.allocate(size, what)
        return self.inputs

    def cache_rows(self, rows: slice) -> list[Place]:
        """Return the places of `rows` in each cache."""
        return [
            place.rows(rows.start, rows.stop, width)
            for place, width in zip(self.places, self.widths, strict=True)
        ]

    def copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        """Copy the slots `since` .. `slots` - 1 of rows; see `State.reorder`."""
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
                skipped, line = since * head_dim * width, (slots - since) * head_dim * width
                for source, target in moves:
                    ends = at[target] + skipped, at[source] + skipped
                    memory.copy_lines(*ends, line, heads, pitch)
            memory.wait()

    def fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Write the first slots of a row of a cache; see `State.fill`."""
        port = self.engine.graph.caches()[cache]
        data = row_bytes(values, self.context, port.dtype)
        self.blocks[cache].write(data, row * data.size)


class DeviceStep:
    """A step on the device's memory.

    Attributes:
        plain_runs: how often it runs kernel by kernel before it may be captured.
    """

    def __init__(
        self, engine: "CudaEngine", buffers: Buffers, shape: StepShape, context: int | None = None
    ) -> None:
        """Bind rows of the cache. If `context` is given, operators get it as the longest length."""
        if engine.session is None:
            raise EngineError("the model was closed")
        caches, vocabulary = buffers.cache_rows(shape.rows), engine.graph.vocab_size
        # Keeps the memory alive: a step may still wait to run when its state has been dropped.
        self.blocks = buffers.blocks
        self.engine, self.memory, self.session = engine, engine.memory, engine.session
        self.context, self.length = context, shape.length
        sizes = (shape.count, shape.length, shape.positions)
        # Page-locked memory takes long to allocate, and a prompt's step is used once.
        repeated = shape.length == 1
        mirror = _Mirror(*sizes, self.memory.host if repeated else _zeros)
        self.inputs = StepInputs.of_size(*sizes, mirror.zeros)
        self.host, size = mirror.data, mirror.data.size
        new = self.memory.allocate if repeated else buffers.prompt_inputs
        self.device = new(size, "inputs")
        logits = (shape.count, shape.positions, vocabulary)
        size = prod(logits) * ITEM_BYTES["float32"]
        shares = size <= buffers.logits.size
        self.result = buffers.logits if shares else self.memory.allocate(size, "logits")
        self.fetched = buffers.host_logits[:size] if shares else np.empty(size, dtype=np.uint8)
        self.where = self.memory.place(self.result, "float32", logits)
        self.runs, self.plain_runs = 0, inf
        self.recording: Recording | None = None
        self.binding = self.session.io_binding()
        bind_graph(self.binding, engine.graph, self.inputs, self._place, caches, self.where)

    def run_bound(self, longest: int) -> None:
        """Run what the inputs hold; `longest` is the largest of `past_len`."""
        if self.engine.session is None:
            raise EngineError("the model was closed")
        self.inputs.derive(longest if self.context is None else self.context - self.length)
        with DEVICE_LOCK:
            failure = self._record() if self.recording is None and self._is_due() else None
            clock = self.engine.clock
            with span_of(clock, self.memory.stream):
                if self.recording is None:
                    self._enqueue()
                else:
                    self.memory.launch(self.recording)
            self.memory.wait()
        self.runs += 1
        if failure is not None and not self.engine.cuda_graph:
            told = f"decode steps run kernel by kernel, which is slower: no CUDA graph, {failure}"
            warnings.warn(told, EdgeGPTWarning, stacklevel=2)

    def _enqueue(self) -> None:
        """Put on the stream: the inputs to the device, the network, the logits to the host."""
        self.memory.send(self.device, self.host)
        self.memory.run(self.session, self.binding, self.engine.run_options)
        self.memory.fetch(self.fetched, self.result)

    def _is_due(self) -> bool:
        return self.engine.cuda_graph and self.runs >= self.plain_runs

    def _record(self) -> EngineError | None:
        """Capture the step as a CUDA graph, or tell why not; then it is tried again later."""
        try:
            self.recording = self.memory.record(self._enqueue)
        except EngineError as error:
            self.plain_runs = self.runs + PLAIN_RUNS
            self.engine.failures += 1
            self.engine.cuda_graph = self.engine.failures < MOST_FAILURES
            return error
        return None

    def logits(self) -> NDArray[np.float32]:
        """Return the result, float32 [B, P, V]. Valid until the next run."""
        return self.fetched.view(np.float32).reshape(self.where.shape)  # (B, P, V)

    def _place(self, role: str, array: NDArray[Any]) -> Place:
        """Return where the graph reads an input. Only the longest length is read on the host."""
        if role == "total_sequence_length":
            return place_of(array)
        offset = array.ctypes.data - self.host.ctypes.data
        return self.memory.place(self.device, str(array.dtype), array.shape, offset)


class _Mirror:
    """The inputs of a step in one block, so that a single copy brings them to the device."""

    def __init__(
        self, batch: int, length: int, positions: int, allocate: Callable[[int], Bytes]
    ) -> None:
        ids, past_len, rows, seqlens = batch * length, batch, batch * positions, batch
        numbers = 2 * ids + past_len + rows + seqlens
        self.data = allocate(numbers * ITEM_BYTES["int64"] + 5 * ALIGNMENT)
        self.used = 0

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return the next part of the block as an array."""
        size = prod(shape) * np.dtype(dtype).itemsize
        part = self.data[self.used : self.used + size].view(dtype).reshape(shape)
        self.used += -(-size // ALIGNMENT) * ALIGNMENT
        return part


def _zeros(size: int) -> Bytes:
    return np.zeros(size, dtype=np.uint8)
