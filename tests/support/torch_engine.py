"""PyTorch behind the runtime's engine interface, so that runtime faults can be planted there."""

import numpy as np
import torch
from numpy.typing import NDArray

from edgegpt.model import GPT
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines.base import Engine, EngineInfo, State

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """The cached path of a model."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.graph = Graph("torch", "", "decoder", "torch", 0, [], [])

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("torch", torch.__version__, "cpu", 1)

    def new_state(self, batch: int, context: int, sources: object = None) -> "TorchState":
        return TorchState(self.model, batch, context)

    def close(self) -> None:
        pass


class TorchState(State):
    """Caches are numpy arrays [B, K, S, D], keys before values, as in the ONNX Runtime state."""

    def __init__(self, model: GPT, batch: int, context: int) -> None:
        super().__init__(batch, context)
        config = model.config
        shape = (batch, config.n_kv_head, context, config.head_dim)
        self.model = model
        self.caches = [np.zeros(shape, dtype=np.float32) for _ in range(2 * config.n_layer)]
        self.result = np.zeros((batch, 0, config.vocab_size), dtype=np.float32)

    def logits(self) -> NDArray[np.float32]:
        return self.result

    @torch.no_grad()
    def _run(self, ids, past_len, logit_positions, first) -> None:
        rows = slice(first, first + len(ids))
        tensors = [torch.from_numpy(cache[rows]) for cache in self.caches]
        types = [keys.dtype for keys, _ in self.model.empty_cache(1, 1)]
        pairs = zip(tensors[::2], tensors[1::2], types, strict=True)
        past = [(keys.to(dtype), values.to(dtype)) for keys, values, dtype in pairs]
        logits, present = self.model.forward_cached(
            torch.from_numpy(np.array(ids)),
            torch.from_numpy(np.array(past_len)),
            torch.from_numpy(np.array(logit_positions)),
            past,
        )
        for cache, tensor in zip(self.caches, (t for kv in present for t in kv), strict=True):
            cache[rows] = tensor.float().numpy()
        self.result = logits.numpy()

    def _decode(self, count: int, longest: int) -> None:
        ids = self.next_ids[:count]
        self._run(ids, self.past_len[:count], np.zeros_like(ids), 0)

    def _copy_rows(self, sources, targets, since, slots) -> None:
        for cache in self.caches:
            cache[targets, :, since:slots] = cache[sources, :, since:slots]

    def _fill(self, cache, row, values) -> None:
        self.caches[cache][row, :, : values.shape[1]] = values
