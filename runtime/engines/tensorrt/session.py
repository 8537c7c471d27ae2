"""The part of a state that is on the device: a stream, contexts, a cache and buffers.

Shapes: B rows, T new tokens, P positions whose logits are wanted, S cache slots, V vocabulary.
"""

import logging
import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Graph
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import EventClock, span_of
from ...cuda.memory import Cuda, HostArray
from ...errors import EngineError, InvalidInputError
from ..base import Ids
from ..filling import row_bytes
from .caches import Caches
from .decode_step import DecodeStep
from .flavour import Flavour
from .log import Log
from .profiles import DECODE, PREFILL, Limits

__all__ = ["LoadedPlan", "Session"]

logger = logging.getLogger(__name__)

INT64, FLOAT32 = 8, 4  # bytes
PATIENCE = 16  # decode steps with a number of rows before this number gets its own context


@dataclass(frozen=True)
class LoadedPlan:
    """A deserialized engine, and all that its contexts need."""

    flavour: Flavour
    log: Log
    engine: Any
    graph: Graph
    limits: Limits
    runtime_cache: Any
    cuda_graph: bool
    clock: EventClock | None


class Session:
    """Contexts and buffers for `rows` texts, allocated once.

    A few are allocated only when they are first needed: buffers for the logits of long steps; a
    place for a row whose address TensorRT does not accept, or that changes places; and contexts
    that decode fewer rows.
    """

    fetched: bool  # the last step's logits are on the host
    busy: bool  # the device may still read the host's buffers

    def __init__(self, cuda: Cuda, plan: LoadedPlan, rows: int) -> None:
        """Allocate everything.

        Raises:
            EngineError: if the GPU has no room; all memory allocated before that is freed.
        """
        self.cuda, self.plan, self.rows = cuda, plan, rows
        self.stack, self.grown = ExitStack(), ExitStack()
        self.bound: tuple[int, ...] | None = None  # sizes and address bound to the prefill context
        self.decoding: dict[int, DecodeStep] = {}  # by number of rows
        self.wanted: Counter[int] = Counter()  # how often a number of rows lacked its own step
        self.stream: Any = None
        try:
            with DEVICE_LOCK:
                self.stream = cuda.stream(self.stack)
                self._allocate()
                self.prefill = self._context(PREFILL)
                self._decode_step(rows)
                self.clear()
        except BaseException:
            self.close()
            raise

    def clear(self) -> None:
        """Empty the cache."""
        self.caches.clear(self.stream)

    def step(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        """Run int64 ids [B, T] at past_len [B], for B rows that begin at `first`.

        Logits are wanted at logit_positions [B, P]. B must be 1 unless `caches.takes(first)`.
        """
        (count, length), positions = ids.shape, logit_positions.shape[1]
        longest = self.plan.limits.max_new_tokens
        if max(length, positions) > longest:
            raise InvalidInputError(f"a step takes at most {longest} new tokens, not {length}")
        assert count == 1 or self.caches.takes(first)
        self.settle()
        self._make_room(count * positions)
        with DEVICE_LOCK:
            self.caches.begin(self.stack, first, self.stream)
        self._send(ids, self.ids)
        self._send(past_len, self.past_len)
        self._send(logit_positions, self.positions)
        wanted = (first, count, length, positions, self.long_logits[0])
        if wanted != self.bound:
            self.bound = None
            sizes = {"batch": count, "new_tokens": length, "logit_positions": positions}
            self.bind(self.prefill, sizes, first, self.positions[0], self.long_logits[0])
            self.bound = wanted
        with span_of(self.plan.clock, self.stream):
            self.execute(self.prefill, first, count)
        self._ran(self.long_logits, count, positions)

    def decode(self, ids: Ids, past_len: Ids) -> None:
        """Run int64 ids [B, 1] at past_len [B], for the first B rows."""
        assert self.stream is not None, "the session was closed"
        count, step = len(ids), self._step_for(len(ids))
        self.settle()
        self.ids[1].array[:count], self.ids[1].array[count : step.rows] = ids[:, 0], 0
        self.past_len[1].array[:count], self.past_len[1].array[count : step.rows] = past_len, 0
        with span_of(self.plan.clock, self.stream):
            step.run()
        self._ran(self.single_logits, count, 1)

    def copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        """Copy the slots `since` .. `slots` - 1 of rows; see `State.reorder`."""
        with DEVICE_LOCK:
            self.caches.copy_rows(self.stack, sources, targets, since, slots, self.stream)

    def fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Write the first slots of a row of a cache; see `State.fill`."""
        port = self.plan.graph.caches()[cache]
        data = row_bytes(values, self.plan.limits.max_context, port.dtype)
        with DEVICE_LOCK, ExitStack() as stack:
            host = self.cuda.host_array(stack, data.shape, np.uint8)
            host.array[:] = data
            self.cuda.to_device(self.caches.home(port.name, row), host, data.size, self.stream)
            self.cuda.wait(self.stream)  # the stack then frees the host's memory

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. The next step reuses their memory."""
        pointer, host = self.last
        count = math.prod(self.shape)
        if not self.fetched:
            self.cuda.to_host(host, pointer, count * FLOAT32, self.stream)
            self.cuda.wait(self.stream)
            self.fetched, self.busy = True, False
        found: NDArray[np.float32] = host.array[:count].reshape(self.shape)  # (B, P, V)
        return found

    def settle(self) -> None:
        """Wait until the device has read the host's buffers, unless it is known to be done."""
        if self.busy:
            self.cuda.wait(self.stream)
            self.busy = False

    def close(self) -> None:
        """Free everything. Closing twice does nothing."""
        with DEVICE_LOCK:
            if self.stream is not None:
                self.cuda.release("cudaStreamSynchronize", self.stream)  # it may still be at work
            self.prefill = self.stream = None  # frees contexts before the memory that they use
            self.decoding = {}
            self.grown.close()
            self.stack.close()

    def bind(
        self, context: Any, sizes: dict[str, int], first: int, positions: int, logits: int
    ) -> None:
        """Give a context all shapes and addresses, and check that it needs nothing more.

        `sizes` are those of symbolic axes, and `first` is the first row. `positions` and `logits`
        are addresses.
        """
        sizes = {"context": self.plan.limits.max_context, **sizes}
        inputs = {
            "ids": self.ids[0],
            "past_len": self.past_len[0],
            "logit_positions": positions,
        }
        for port in self.plan.graph.inputs:
            past, present = inputs.get(port.role), None
            if port.role == "cache":
                past, present = self.caches.addresses(port.name, first)
            self.ask(context, "set_tensor_address", port.name, past)
            self.ask(context, "set_input_shape", port.name, port.sized(sizes))
            if port.present is not None:
                self.ask(context, "set_tensor_address", port.present, present)
        self.ask(context, "set_tensor_address", "logits", logits)
        missing = self.ask(context, "infer_shapes")
        if missing:
            raise EngineError(f"TensorRT wants more of: {', '.join(missing)}")

    def execute(self, context: Any, first: int, count: int) -> None:
        """Put on the stream a context's step on `count` rows, and the copies into their cache."""
        self.ask(context, "execute_async_v3", int(self.stream))
        self.caches.bring_home(first, count, self.stream)

    def ask(self, thing: Any, name: str, *arguments: Any) -> Any:
        """Call a method of a TensorRT object; see `Log.ask`."""
        return self.plan.log.ask(thing, name, *arguments)

    def _ran(self, logits: tuple[int, HostArray], count: int, positions: int) -> None:
        self.last, self.shape = logits, (count, positions, self.vocab_size)
        self.fetched, self.busy = False, True

    def _allocate(self) -> None:
        cuda, stack, rows, limits = self.cuda, self.stack, self.rows, self.plan.limits
        self.vocab_size = self.plan.graph.vocab_size
        self.caches = Caches(cuda, stack, self.plan.graph, rows, limits.max_context)
        longest = limits.max_new_tokens
        self.ids = self._input(rows * longest)
        self.past_len = self._input(rows)
        self.positions = self._input(rows * longest)
        # The logit position of a step of one new token, which is always 0.
        self.zeros = cuda.allocate(stack, rows * INT64, "inputs")
        cuda.clear(self.zeros, rows * INT64, self.stream)
        self.single_logits = self._logits(stack, rows)
        self.long_logits, self.room = self.single_logits, rows
        self._ran(self.single_logits, rows, 1)
        # All contexts share one workspace, because their steps follow each other on one stream.
        size = self.plan.engine.device_memory_size_v2
        self.workspace = cuda.allocate(stack, size, "activations"), size

    def _step_for(self, count: int) -> DecodeStep:
        """Return a step that decodes `count` rows, and perhaps free rows after them.

        While the texts of a batch end one after the other, most numbers of rows last only for a few
        tokens. A context for each would cost more than it saves, mostly by compiling kernels.
        """
        step = self.decoding.get(count)
        if step is not None:
            return step
        self.wanted[count] += 1
        if self.wanted[count] == PATIENCE:
            try:
                return self._decode_step(count)
            except EngineError as error:  # for example, no room for another context
                logger.info("decoding goes on with free rows: %s", error)
        return self.decoding[min(rows for rows in self.decoding if rows > count)]

    def _decode_step(self, rows: int) -> DecodeStep:
        """Make the step that decodes `rows` rows, with a context of its own for this shape."""
        with DEVICE_LOCK:
            step = DecodeStep(self, self._context(DECODE), rows)
        self.decoding[rows] = step
        return step

    def _context(self, profile: int) -> Any:
        """Return a context for one profile, which it keeps because switching costs time."""
        plan = self.plan
        decodes = profile == DECODE
        context = plan.log.make(
            plan.flavour,
            "new_context",
            plan.engine,
            plan.runtime_cache,
            decodes=decodes,
            capture=decodes and plan.cuda_graph,
        )
        self.ask(context, "set_optimization_profile_async", profile, int(self.stream))
        self.cuda.wait(self.stream)
        self.ask(context, "set_device_memory", *self.workspace)
        return context

    def _input(self, count: int) -> tuple[int, HostArray]:
        """Return room for `count` int64 on the device, and for as many on the host."""
        pointer = self.cuda.allocate(self.stack, count * INT64, "inputs")
        return pointer, self.cuda.host_array(self.stack, (count,), np.int64)

    def _logits(self, stack: ExitStack, count: int) -> tuple[int, HostArray]:
        """Return room for the logits of `count` tokens, on the device and on the host."""
        numbers = count * self.vocab_size
        pointer = self.cuda.allocate(stack, numbers * FLOAT32, "logits")
        return pointer, self.cuda.host_array(stack, (numbers,), np.float32)

    def _make_room(self, count: int) -> None:
        """Make sure that buffers hold the logits of `count` tokens; free smaller ones first."""
        if count <= self.room:
            return
        with DEVICE_LOCK:
            self.grown.close()
            self.long_logits, self.room = self.single_logits, self.rows
            self._ran(self.single_logits, self.rows, 1)
            self.long_logits, self.room = self._logits(self.grown, count), count

    def _send(self, values: Ids, to: tuple[int, HostArray]) -> None:
        """Copy int64 values to the beginning of a buffer on the device."""
        pointer, host = to
        host.array[: values.size] = values.ravel()
        self.cuda.to_device(pointer, host, values.size * INT64, self.stream)
