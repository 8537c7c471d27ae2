"""The CUDA engine on the host's own memory and the CPU provider, which checks all of its logic.

`CountingMemory` keeps the books: what was allocated, what was copied where, and what ran.
"""

from types import ModuleType
from typing import Any

import numpy as np

from edgegpt.runtime.bundle import Bundle
from edgegpt.runtime.engines.ort_candidates import candidates_model
from edgegpt.runtime.engines.ort_cuda import CudaEngine
from edgegpt.runtime.engines.ort_device import Block, DeviceMemory
from edgegpt.runtime.engines.ort_session import open_session
from edgegpt.runtime.manifest import Graph

__all__ = ["CountingMemory", "HostEngine"]

PROVIDERS = ["CPUExecutionProvider"]


class CountingBlock(Block):
    def __init__(self, block: Block, books: "CountingMemory") -> None:
        super().__init__(block.value)
        self.books = books

    def write(self, data: np.ndarray) -> None:
        super().write(data)
        self.books.to_device += data.nbytes

    def read(self) -> np.ndarray:
        data = super().read()
        self.books.to_host += data.nbytes
        return data.copy()  # a device's bytes never are the host's


class CountingMemory(DeviceMemory):
    """The host's memory as a device that counts, and that may be full."""

    def __init__(self, runtime: ModuleType) -> None:
        super().__init__(runtime, "cpu")
        self.allocated = self.to_device = self.to_host = 0
        self.room = 2**40
        self.graph_ids: list[str | None] = []

    def allocate(self, size: int, what: str) -> Block:
        if size > self.room:
            full = RuntimeError(f"Available memory of 7 is smaller than requested bytes of {size}")
            raise self.explain(full, f"{size / 1e6:,.1f} MB for the {what}") from full
        block = CountingBlock(super().allocate(size, what), self)
        self.allocated += size
        self.room -= size
        return block

    def run(self, session: Any, binding: Any, options: Any) -> None:
        super().run(session, binding, options)
        key = "gpu_graph_id"
        self.graph_ids.append(None if options is None else options.get_run_config_entry(key))


class HostEngine(CudaEngine):
    device = "cpu"
    memory: CountingMemory

    def __init__(self, bundle: Bundle, graph: Graph, **settings: Any) -> None:
        super().__init__(bundle, graph, **settings)
        self.memory = CountingMemory(self.runtime)

    def _open_candidates(self) -> Any:
        return self.runtime.InferenceSession(candidates_model(), providers=PROVIDERS)

    def _load(self, bundle: Bundle, graph: Graph) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return open_session(self.runtime, bundle, graph, options, PROVIDERS)
