"""What one generation has on the device: a stream, contexts, buffers, and the captured step.

Shapes: B rows, T new tokens, P positions whose logits are wanted, S cache slots, V vocabulary.
"""

import gc
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Graph, Port
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import EventClock, span_of
from ...cuda.memory import Cuda, HostArray
from ...errors import EdgeGPTWarning, EngineError, InvalidInputError
from ..base import Ids
from .log import Log
from .profiles import DECODE, PREFILL, Limits
from .vendor import Vendor, writes_in_place

__all__ = ["LoadedPlan", "Session"]

INT64, FLOAT32 = 8, 4  # bytes
ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class LoadedPlan:
    """A deserialized engine, and what its contexts need."""

    vendor: Vendor
    log: Log
    engine: Any
    graph: Graph
    limits: Limits
    runtime_cache: Any
    cuda_graph: bool
    clock: EventClock | None


class Session:
    """Contexts and buffers for `batch` rows, all allocated here once.

    Only the buffers for logits of long steps grow, when a step wants more of them than any before.
    """

    fetched: bool  # the last step's logits are on the host
    busy: bool  # the device may still read the host's buffers

    def __init__(self, cuda: Cuda, plan: LoadedPlan, batch: int) -> None:
        """Allocate everything.

        Raises:
            EngineError: if the GPU has no room; what was allocated until then is freed.
        """
        self.cuda, self.plan, self.batch = cuda, plan, batch
        self.stack, self.grown = ExitStack(), ExitStack()
        self.bound: tuple[int, int, int] | None = None  # T, P, and the address of the logits
        self.stream: Any = None
        try:
            with DEVICE_LOCK:
                self.stream = cuda.stream(self.stack)
                self._allocate()
                self.prefill = self._context(PREFILL)
                self.decoding: DecodeStep | None = DecodeStep(self, self._context(DECODE))
                self.clear()
        except BaseException:
            self.close()
            raise

    def clear(self) -> None:
        """Empty the cache: a slot that is masked must not hold NaN, which would spread."""
        for past, present, size in self.caches.values():
            for pointer in {past, present}:
                self.cuda.clear(pointer, size, self.stream)

    def step(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        """Run int64 ids [B, T] at past_len [B]; logits are wanted at logit_positions [B, P]."""
        length, positions = ids.shape[1], logit_positions.shape[1]
        longest = self.plan.limits.max_new_tokens
        if max(length, positions) > longest:
            raise InvalidInputError(f"a step takes at most {longest} new tokens, not {length}")
        self.settle()
        self._make_room(positions)
        self._send(ids, self.ids)
        self._send(past_len, self.past_len)
        self._send(logit_positions, self.positions)
        wanted = (length, positions, self.long_logits[0])
        if wanted != self.bound:
            self.bound = None
            sizes = {"new_tokens": length, "logit_positions": positions}
            self.bind(self.prefill, sizes, self.positions[0], self.long_logits[0])
            self.bound = wanted
        with span_of(self.plan.clock, self.stream):
            self.execute(self.prefill)
        self._ran(self.long_logits, positions)

    def decode(self, ids: Ids, past_len: Ids) -> None:
        """Run int64 ids [B, 1] at past_len [B]. Allocates nothing."""
        assert self.decoding is not None, "the session was closed"
        self.settle()
        self.ids[1].array[: self.batch] = ids[:, 0]
        self.past_len[1].array[: self.batch] = past_len
        with span_of(self.plan.clock, self.stream):
            self.decoding.run()
        self._ran(self.single_logits, 1)

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V], in memory that the next one reuses."""
        pointer, host = self.last
        count = math.prod(self.shape)
        if not self.fetched:
            self.cuda.to_host(host, pointer, count * FLOAT32, self.stream)
            self.cuda.wait(self.stream)
            self.fetched, self.busy = True, False
        found: NDArray[np.float32] = host.array[:count].reshape(self.shape)  # (B, P, V)
        return found

    def settle(self) -> None:
        """Wait until the device has read the host's buffers, unless that is known."""
        if self.busy:
            self.cuda.wait(self.stream)
            self.busy = False

    def close(self) -> None:
        """Free everything. Closing twice does nothing."""
        with DEVICE_LOCK:
            if self.stream is not None:
                self.cuda.release("cudaStreamSynchronize", self.stream)  # it may be at work still
            self.prefill = self.decoding = self.stream = None  # before the memory that they use
            self.grown.close()
            self.stack.close()

    def bind(self, context: Any, sizes: dict[str, int], positions: int, logits: int) -> None:
        """Give a context all shapes and addresses, and see that it wants nothing more."""
        inputs = {
            "ids": self.ids[0],
            "past_len": self.past_len[0],
            "logit_positions": positions,
        }
        for port in self.plan.graph.inputs:
            past, present = inputs.get(port.role), None
            if port.role == "cache":
                past, present, _ = self.caches[port.name]
            self.ask(context, "set_tensor_address", port.name, past)
            self.ask(context, "set_input_shape", port.name, self._shape(port, sizes))
            if port.present is not None:
                self.ask(context, "set_tensor_address", port.present, present)
        self.ask(context, "set_tensor_address", "logits", logits)
        missing = self.ask(context, "infer_shapes")
        if missing:
            raise EngineError(f"TensorRT wants more of: {', '.join(missing)}")

    def execute(self, context: Any) -> None:
        """Put the context's work on the stream; a cache that was written elsewhere goes back."""
        self.ask(context, "execute_async_v3", int(self.stream))
        for past, present, size in self.caches.values():
            if past != present:
                self.cuda.within_device(past, present, size, self.stream)

    def ask(self, thing: Any, name: str, *arguments: Any) -> Any:
        """Call a method of TensorRT's; see `Log.ask`."""
        return self.plan.log.ask(thing, name, *arguments)

    def _ran(self, logits: tuple[int, HostArray], positions: int) -> None:
        self.last, self.shape = logits, self._logits_shape(positions)
        self.fetched, self.busy = False, True

    def _allocate(self) -> None:
        cuda, stack, batch = self.cuda, self.stack, self.batch
        longest = self.plan.limits.max_new_tokens
        self.caches: dict[str, tuple[int, int, int]] = {}  # past, present, bytes
        in_place = writes_in_place(self.plan.graph)
        for port in self.plan.graph.caches():
            size = math.prod(self._shape(port, {})) * ITEM_SIZES[port.dtype]
            past = cuda.allocate(stack, size, "the cache")
            present = past if in_place else cuda.allocate(stack, size, "the cache's new version")
            self.caches[port.name] = past, present, size
        self.ids = self._input(batch * longest)
        self.past_len = self._input(batch)
        self.positions = self._input(batch * longest)
        self.single_logits = self._logits(stack, 1)
        self.long_logits, self.room = self.single_logits, 1
        self._ran(self.single_logits, 1)
        # One workspace for both contexts: their steps follow each other on one stream.
        size = self.plan.engine.device_memory_size_v2
        self.workspace = cuda.allocate(stack, size, "activations"), size

    def _context(self, profile: int) -> Any:
        """Return a context that keeps to one profile: switching would cost time."""
        plan = self.plan
        decodes = profile == DECODE
        context = plan.log.make(
            plan.vendor,
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
        """Return `count` int64 on the device, and as many on the host."""
        pointer = self.cuda.allocate(self.stack, count * INT64, "inputs")
        return pointer, self.cuda.host_array(self.stack, (count,), np.int64)

    def _logits(self, stack: ExitStack, positions: int) -> tuple[int, HostArray]:
        count = math.prod(self._logits_shape(positions))
        pointer = self.cuda.allocate(stack, count * FLOAT32, "logits")
        return pointer, self.cuda.host_array(stack, (count,), np.float32)

    def _make_room(self, positions: int) -> None:
        """Have buffers for the logits of so many positions; the smaller ones are freed first."""
        if positions <= self.room:
            return
        with DEVICE_LOCK:
            self.grown.close()
            self.long_logits, self.room = self.single_logits, 1
            self._ran(self.single_logits, 1)
            self.long_logits, self.room = self._logits(self.grown, positions), positions

    def _send(self, values: Ids, to: tuple[int, HostArray]) -> None:
        """Copy int64 values to the beginning of a buffer on the device."""
        pointer, host = to
        host.array[: values.size] = values.ravel()
        self.cuda.to_device(pointer, host, values.size * INT64, self.stream)

    def _shape(self, port: Port, sizes: dict[str, int]) -> tuple[int, ...]:
        known = {"batch": self.batch, "context": self.plan.limits.max_context, **sizes}
        return tuple(size if isinstance(size, int) else known[size] for size in port.shape)

    def _logits_shape(self, positions: int) -> tuple[int, int, int]:
        (logits,) = [port for port in self.plan.graph.outputs if port.role == "logits"]
        vocab_size = logits.shape[-1]
        if not isinstance(vocab_size, int) or logits.dtype != "float32":
            raise EngineError(f"the graph {self.plan.graph.name} has no float32 logits")
        return self.batch, positions, vocab_size


class DecodeStep:
    """The step of one token a row: first run plainly, then captured, then launched as one graph.

    A capture follows a plain run of the same shapes, because TensorRT still does work on the host
    in the first one. Its copies read the host's buffers anew at every launch.
    """

    def __init__(self, session: Session, context: Any) -> None:
        self.session, self.context = session, context
        plan = session.plan
        self.captures = plan.cuda_graph and not plan.vendor.captures_itself
        self.runs = 0
        self.graph: Any = None
        # Where in the single new token logits are wanted: at 0, for ever.
        cuda, size = session.cuda, session.batch * INT64
        zeros = cuda.allocate(session.stack, size, "inputs")
        cuda.clear(zeros, size, session.stream)
        sizes = {"new_tokens": 1, "logit_positions": 1}
        session.bind(self.context, sizes, zeros, session.single_logits[0])

    def run(self) -> None:
        """Run what the host's buffers hold."""
        session = self.session
        if self.captures and self.runs == 1:
            self._try_to_capture()
        if self.graph is not None:
            session.cuda.call("cudaGraphLaunch", self.graph, session.stream)
        else:
            self._enqueue()
        self.runs += 1

    def _enqueue(self) -> None:
        session, size = self.session, self.session.batch * INT64
        for pointer, host in (session.ids, session.past_len):
            session.cuda.to_device(pointer, host, size, session.stream)
        session.execute(self.context)

    def _try_to_capture(self) -> None:
        try:
            with DEVICE_LOCK, _no_collection():
                self.graph = self._capture()
        except EngineError as error:
            told = f"steps run kernel by kernel, which is slower: they cannot be captured ({error})"
            warnings.warn(told, EdgeGPTWarning, stacklevel=2)

    def _capture(self) -> Any:
        session, call = self.session, self.session.cuda.call
        mode = session.cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        release = session.cuda.release
        call("cudaStreamBeginCapture", session.stream, mode)
        try:
            self._enqueue()
        except BaseException:  # a stream that is left in capture could not be used any more
            release("cudaStreamEndCapture", session.stream)
            session.cuda.forget_error()
            raise
        graph = call("cudaStreamEndCapture", session.stream)
        session.stack.callback(release, "cudaGraphDestroy", graph)
        executable = call("cudaGraphInstantiate", graph, 0)
        session.stack.callback(release, "cudaGraphExecDestroy", executable)
        return executable


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: a state among it would free memory, which ends a capture."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
