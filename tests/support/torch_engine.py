"""PyTorch behind the runtime's engine interface, so that runtime faults can be planted there."""

import numpy as np
import torch
from numpy.typing import NDArray

from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines.base import Engine, EngineInfo, Sources, State

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """The cached path of a model."""

    def __init__(self, model: GPT | Seq2Seq) -> None:
        self.model = model
        self.graph = Graph("torch", "", "decoder", "torch", 0, [], [])

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("torch", torch.__version__, "cpu", 1)

    def new_state(self, batch: int, context: int, sources: Sources | None = None) -> "TorchState":
        decoder = self.model.decoder if isinstance(self.model, Seq2Seq) else self.model
        return TorchState(decoder, batch, context, sources)

    @torch.no_grad()
    def encode(self, ids, lengths) -> Sources:
        caches = self.model.encode(torch.from_numpy(ids), torch.from_numpy(lengths))
        return Sources(lengths, [tensor.numpy() for cache in caches for tensor in cache])

    def close(self) -> None:
        pass


class TorchState(State):
    """Caches are numpy arrays [B, K, S, D], keys before values, as in the ONNX Runtime state."""

    def __init__(
        self, model: GPT, batch: int, context: int, sources: Sources | None = None
    ) -> None:
        super().__init__(batch, context, sources and sources.count)
        self.sources = sources
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
            self._attended(rows),
        )
        for cache, tensor in zip(self.caches, (t for kv in present for t in kv), strict=True):
            cache[rows] = tensor.float().numpy()
        self.result = logits.numpy()

    def _attended(self, rows: slice):
        """Return what the layers of the rows attend to; None without sources."""
        if self.sources is None:
            return None
        part = slice(rows.start // self.rows_each, rows.stop // self.rows_each)
        caches = [torch.from_numpy(cache[part]) for cache in self.sources.caches]
        lengths = torch.from_numpy(self.sources.lengths[part])
        return [(cache, lengths) for cache in zip(caches[::2], caches[1::2], strict=True)]

    def _move_sources(self, parents) -> None:
        caches = [cache[parents] for cache in self.sources.caches]
        self.sources = Sources(self.sources.lengths[parents], caches)

    def _decode(self, count: int, longest: int) -> None:
        ids = self.next_ids[:count]
        self._run(ids, self.past_len[:count], np.zeros_like(ids), 0)

    def _copy_rows(self, sources, targets, since, slots) -> None:
        for cache in self.caches:
            cache[targets, :, since:slots] = cache[sources, :, since:slots]

    def _fill(self, cache, row, values) -> None:
        self.caches[cache][row, :, : values.shape[1]] = values
