"""The CUDA engine on host memory and the CPU provider, to test all of its logic.

`CountingMemory` records what is allocated, what is copied where, and what runs.
"""

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cuda import CudaEngine, CudaState
from edgegpt.runtime.engines.ort.device import Block, DeviceMemory
from edgegpt.runtime.engines.ort.session import open_session
from edgegpt.runtime.errors import EngineError

__all__ = ["CountingMemory", "HostBlock", "HostEngine", "decode", "host_engine"]

PROVIDERS = ["CPUExecutionProvider"]


class HostBlock(Block):
    """A block of host memory whose copies are counted."""

    def __init__(self, size: int, books: "CountingMemory") -> None:
        self.size, self.books = size, books
        self.data = np.zeros(size, dtype=np.uint8)
        self.address = self.data.ctypes.data
        weakref.finalize(self, books.give_back, size)

    def write(self, data: np.ndarray, offset: int = 0) -> None:
        assert offset + data.nbytes <= self.size
        self.data[offset : offset + data.nbytes] = data
        self.books.to_device += data.nbytes

    def read(self, size: int | None = None) -> np.ndarray:
        data = self.data[:size].copy()
        self.books.to_host += data.nbytes
        return data


class HostRecording:
    """Work that is done again, as the device would do it, each time that it is launched."""

    def __init__(self, work: Callable[[], None], books: "CountingMemory") -> None:
        self.work, self.books = work, books

    def launch(self) -> None:
        ran, self.books.launching = len(self.books.ran), True
        self.work()
        self.books.launching = False
        self.books.ran[ran:] = ["launch"]


class CountingMemory(DeviceMemory):
    """Host memory in the role of a device's; it counts, and it can be full.

    Attributes:
        ran: "run" for each run of a session, "record" and "launch" for those of a graph.
    """

    kind = "cpu"

    def __init__(self, stream: int = 0) -> None:
        self.allocated = self.to_device = self.to_host = 0
        self.room, self.stream = 2**40, stream
        self.ran: list[str] = []
        self.locked: list[np.ndarray] = []
        self.launching = False

    def reserve(self, size: int) -> HostBlock:
        if size > self.room:
            raise EngineError("cudaMalloc: out of memory")
        self.allocated += size
        self.room -= size
        return HostBlock(size, self)

    def give_back(self, size: int) -> None:
        self.room += size

    def free_bytes(self) -> None:
        return None

    def copy_lines(self, target: int, source: int, width: int, count: int, pitch: int) -> None:
        for line in range(count):
            ctypes.memmove(target + line * pitch, source + line * pitch, width)

    def host(self, size: int) -> np.ndarray:
        self.locked.append(np.zeros(size, dtype=np.uint8))
        return self.locked[-1]

    def send(self, block: Block, data: np.ndarray) -> None:
        self._check_locked(data)
        block.write(data)

    def fetch(self, data: np.ndarray, block: Block) -> None:
        self._check_locked(data)
        data[:] = block.read(data.size)

    def _check_locked(self, data: np.ndarray) -> None:
        """A graph may only copy from and to page-locked memory."""
        assert not self.launching or any(np.shares_memory(data, one) for one in self.locked)

    def wait(self) -> None:
        pass

    def run(self, session: Any, binding: Any, options: Any) -> None:
        super().run(session, binding, options)
        self.ran.append("run")

    def record(self, work: Callable[[], None]) -> Any:
        self.ran.append("record")
        return HostRecording(work, self)


class HostEngine(CudaEngine):
    device = "cpu"
    memory: CountingMemory

    def _check_provider(self) -> None:
        pass

    def _open_memory(self) -> CountingMemory:
        return CountingMemory(self.clock.stream if self.clock else 0)

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return open_session(self.runtime, bundle, graph, options, PROVIDERS)


def host_engine(bundle: Bundle, lowering: str = "ort", **settings: Any) -> HostEngine:
    """Open the bundle's graph of a lowering."""
    (graph,) = [graph for graph in bundle.manifest.graphs if graph.lowering == lowering]
    return HostEngine(bundle, graph, EngineOptions("cuda", **settings))


def decode(state: CudaState, past: int, token: int = 3) -> None:
    """Feed a token to every row, after `past` others."""
    state.next_ids[:], state.past_len[:] = token, past
    state.decode()
