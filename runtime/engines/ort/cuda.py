"""ONNX Runtime on CUDA: cache and activations stay on the device.

A decode step copies one small block of inputs to the device, runs, and copies the logits back to
page-locked memory, which takes less time than selecting the best of them on the device would. It
allocates memory only in its first runs with a given number of rows. All addresses are fixed, so
that the step, copies included, can be captured as a CUDA graph and launched again with a single
call, under these rules:

- Only steps of one token per row are captured, because prompts differ in length.
- They are captured here, around ONNX Runtime's run, and not by ONNX Runtime: its own graphs belong
  to a thread, are never freed, and are launched at the cost of a whole run.
- A graph belongs to the addresses of one set of buffers, and to a number of rows. So buffers are
  kept for later texts of the same context and as many rows or fewer.
- All work is on one stream. Memory that ONNX Runtime uses in a prompt, after it was used by a
  captured step, is therefore free again when that step is launched.
- Operators that read the longest length on the host (GroupQueryAttention) always get the whole
  context, with or without CUDA graphs. This value only chooses a kernel; the device has the length
  of each row.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...cuda.cudart import Cudart
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import EventClock
from ...errors import EdgeGPTWarning, EngineError
from ..base import PREFILL_CHUNK, Engine, EngineInfo, Sources
from ..options import DEFAULTS, EngineOptions
from .binding import BoundState, StepShape
from .cuda_provider import check_placement, provider, replays_rightly, try_provider
from .device import DeviceMemory
from .device_steps import Buffers, DeviceStep
from .session import LOG_ERRORS_ONLY, import_onnxruntime, open_session

__all__ = ["CudaEngine"]

KEPT = 4  # sets of buffers that are kept for later texts
# Tokens of a piece of a prompt, over all rows, where attention takes no memory for each pair of
# them. Every further piece attends to a filled cache, by slower kernels.
LONGEST_PIECE = 2048


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
        self._check_provider()
        self.memory = self._open_memory()
        self.session = self._load(bundle, graph)
        self.run_options = self.runtime.RunOptions()
        # The step waits by itself, once, and a wait cannot be captured.
        self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.kept: list[Buffers] = []
        self.failures = 0  # captures that failed

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        version = self.runtime.__version__
        device = f"{self.device}-tf32" if self.tf32 else self.device
        return EngineInfo("onnxruntime", version, device, self.threads, self.tf32)

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> "CudaState":
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        assert sources is None, "no encoder-decoder is opened with this engine"
        if self.session is None:
            raise EngineError("the model was closed")
        return CudaState(self, self._take(rows, context), rows)

    def close(self) -> None:
        """Drop the session and the kept buffers."""
        with DEVICE_LOCK:
            self.session = None
            self.kept = []

    def give_back(self, buffers: Buffers) -> None:
        """Keep buffers for the next text that fits them, unless the engine was closed."""
        with DEVICE_LOCK:
            if self.session is not None:
                self.kept = [*self.kept, buffers][-KEPT:]

    def _take(self, rows: int, context: int) -> Buffers:
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
                return Buffers(self, rows, context)
            except EngineError:
                if not self.kept:
                    raise
            # Not within `except`: the error would keep what the first try allocated.
            self.kept = []
            return Buffers(self, rows, context)

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

    def _check_provider(self) -> None:
        try_provider(self.runtime)

    def _open_memory(self) -> DeviceMemory:
        stream = self.clock.stream if self.clock else None
        return DeviceMemory(Cudart(self.runtime), stream)

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # Keep the weights out of the arena, which doubles when it grows.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        chosen = provider(tf32=self.tf32, stream=self.memory.stream)
        with DEVICE_LOCK:
            session = open_session(self.runtime, bundle, graph, options, [chosen])
        check_placement(session, graph)
        return session


class CudaState(BoundState):
    """A cache in buffers that its engine lends to it."""

    def __init__(self, engine: CudaEngine, buffers: Buffers, rows: int) -> None:
        self.engine = engine
        self.buffers: Buffers | None = buffers
        super().__init__(engine.graph, rows, buffers.context)
        if engine.graph.lowering == "ort":
            self.prompt_piece = max(PREFILL_CHUNK, LONGEST_PIECE // rows)

    def close(self) -> None:
        """Return the buffers to the engine.

        They need no cleaning: all their values are finite, and a new text masks old slots.
        """
        buffers, self.buffers = self.buffers, None
        if buffers is not None:
            self.bound.clear()
            self.engine.give_back(buffers)

    def _single(self, count: int) -> DeviceStep:
        return self._own().single(count)

    def _bind(self, shape: StepShape) -> DeviceStep:
        return DeviceStep(self.engine, self._own(), shape)

    def _decode(self, count: int, longest: int) -> None:
        step = self.single = self.last = self._single(count)
        step.inputs.ids[:], step.inputs.past_len[:] = self.next_ids[:count], self.past_len[:count]
        step.run_bound(longest)

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        self._own().copy_rows(sources, targets, since, slots)

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        self._own().fill(cache, row, values)

    def _own(self) -> Buffers:
        assert self.buffers is not None, "the state was closed"
        return self.buffers
