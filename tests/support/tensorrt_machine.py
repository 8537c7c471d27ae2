"""Engines of both TensorRT flavours on a fake device that enforces the vendor's rules."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import fake_module, fake_plan, one_layer_graph

from edgegpt.runtime.engines.tensorrt.engine import TensorRTEngine
from edgegpt.runtime.engines.tensorrt.flavour import Flavour
from edgegpt.runtime.engines.tensorrt.prepare import Prepared
from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.store import Identity, StoredEngine
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling

__all__ = ["FLAVOURS", "LIMITS", "VOCAB", "Machine", "generated", "install", "network"]

VOCAB = 11
LIMITS = Limits(max_batch=3, max_context=24)
# Flavour, version, and the lowering that it reads.
FLAVOURS = {
    "tensorrt": ("tensorrt", "10.16.2", "standard"),
    "tensorrt 10.9": ("tensorrt", "10.9.0", "legacy"),
    "tensorrt-rtx": ("tensorrt_rtx", "1.7.1", "standard"),
}


def network(ids) -> np.ndarray:
    """Return logits that depend on every visible id and its position."""
    mixed = sum((place + 1) * (token + 3) for place, token in enumerate(ids))
    return np.sin(np.arange(VOCAB) * (mixed % 97 + 1)).astype(np.float32)


class Machine:
    """A fake device, and engines on it."""

    def __init__(self, flavour: str, folder: Path, capacity: int = 1 << 30) -> None:
        self.flavour, self.folder = flavour.partition(" ")[0], folder
        self.cuda = FakeCuda(capacity)
        name, version, self.lowering = FLAVOURS[flavour]
        self.module = fake_module(name, version, self.cuda, network)

    def prepared(self, plan: bytes | None = None) -> Prepared:
        graph = one_layer_graph(VOCAB, self.lowering)
        identity = Identity("b", graph.name, self.flavour, "1", "8.9", "", "", 3, 24)
        plan = fake_plan(graph, LIMITS) if plan is None else plan
        digest = hashlib.sha256(plan).hexdigest()
        stored = StoredEngine(identity, self.folder / "plan.engine", plan, digest)
        return Prepared(Flavour(self.flavour, self.module), graph, stored, None)

    def engine(self, **settings: bool) -> TensorRTEngine:
        return TensorRTEngine(self.prepared(), **settings)


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)


def generated(engine, prompts: list[list[int]], count: int, **settings) -> list[list[int]]:
    texts = [Text(list(prompt), seed=1, series=0) for prompt in prompts]
    sampling = Sampling(0.0, None, 1.0, 0.0, 1.0)
    rules = Rules(LIMITS.max_context, count, sampling, "slide", 0.0, **settings)
    for _ in generate_tokens(engine, texts, rules):
        pass
    return [text.new_ids for text in texts]
