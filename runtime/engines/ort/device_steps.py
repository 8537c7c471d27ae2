"""The buffers of the CUDA engine: a cache on the device, and the steps that are bound to it."""

import logging
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.vocabulary import ITEM_BYTES
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import span_of
from ...errors import EngineError
from ..candidates import Candidates
from ..filling import row_bytes
from ..moves import SPARE, moves_in_order
from .binding import Place, StepInputs, StepShape, bind_graph, place_of
from .device import Block
from .picker import CandidateStep, is_worthwhile

if TYPE_CHECKING:
    from .cuda import CudaEngine

__all__ = ["Buffers", "DeviceStep"]

logger = logging.getLogger(__name__)

PLAIN_RUNS = 4  # runs before a step is captured, if its number of rows is not the state's
ALIGNMENT = 256  # bytes, of tensors in a block; as cudaMalloc guarantees


class Buffers:
    """A cache for `rows` texts of `context` tokens, and the decode steps that are bound to it."""

    def __init__(self, engine: "CudaEngine", rows: int, context: int) -> None:
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
    """A step on the device's memory."""

    def __init__(
        self,
        engine: "CudaEngine",
        buffers: Buffers,
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
