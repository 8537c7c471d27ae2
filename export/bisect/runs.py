"""The golden inputs of a graph, run in PyTorch and in the graph: both sides of a comparison.

A decoder gets the golden prompt that is fed in pieces, so that the cache is used, and the far ones.
It attends to what PyTorch made of its source, so that a wrong encoder does not spoil it. An encoder
gets the sources of the ragged rows as one batch, and the longest source alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.golden import Golden, Prompt
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.generation.prefill import pad
from edgegpt.runtime.proof.far_past import far_past

from ..past import cut_past, torch_past
from ..reader import Attending, Reader

__all__ = ["Array", "DecoderRuns", "EncoderRuns", "runs_of", "source_of"]

Array = NDArray[Any]
Feeds = Mapping[str, Array]

# What is added behind a source [1, H, N, D] for the graph: three places that no token may see.
BEHIND = ((0, 0), (0, 0), (0, 3), (0, 0))


class EncoderRuns:
    """Batches of sources: ids int64 [G, N], lengths int64 [G]."""

    def __init__(self, model: Seq2Seq, golden: Golden) -> None:
        self.model = model
        longest = max(golden.prefill, key=lambda prompt: len(source_of(prompt)))
        self.batches = [pad(list(map(source_of, batch))) for batch in (golden.ragged, [longest])]

    def in_torch(self) -> Iterator[list[Tensor]]:
        """Yield keys and values [G, H, N, D] for each layer of the decoder, batch by batch."""
        for batch in self.batches:
            ids, lengths = map(torch.from_numpy, batch)
            sources = self.model.sources(self.model.encoder(ids, lengths), lengths)
            yield [tensor for cache, _ in sources for tensor in cache]

    def in_graph(
        self, graph: Graph, session: onnxruntime.InferenceSession, outputs: list[str]
    ) -> Iterator[list[Array]]:
        """Yield the outputs of the graph, batch by batch."""
        for ids, lengths in self.batches:
            by_role = {"source_ids": ids, "source_len": lengths}
            yield session.run(outputs, {port.name: by_role[port.role] for port in graph.inputs})


class DecoderRuns:
    """Prompts, each in pieces; those of an encoder-decoder with their sources."""

    def __init__(self, model: GPT | Seq2Seq, golden: Golden) -> None:
        self.golden = golden
        self.prompts = [golden.chunked, *golden.far]
        self.pieces = [golden.chunk_sizes, *([len(prompt.ids)] for prompt in golden.far)]
        self.readers: list[Reader] = [
            model if isinstance(model, GPT) else Attending(model, [source_of(prompt).tolist()])
            for prompt in self.prompts
        ]

    def in_torch(self) -> Iterator[list[Tensor]]:
        """Yield the logits [1, T, V], prompt by prompt."""
        past = torch_past(self.golden.past, max(prompt.past_len for prompt in self.prompts))
        for reader, prompt in zip(self.readers, self.prompts, strict=True):
            ids = torch.from_numpy(prompt.ids)[None]  # (1, T)
            yield [reader(ids, cut_past(past, prompt.past_len))]

    def in_graph(
        self, graph: Graph, session: onnxruntime.InferenceSession, outputs: list[str]
    ) -> Iterator[list[Array]]:
        """Yield the outputs of the graph, piece by piece."""
        caches = graph.caches()
        names = [*outputs, *(str(port.present) for port in caches)]
        for reader, prompt, sizes in zip(self.readers, self.prompts, self.pieces, strict=True):
            attended, cache = _attended(graph, reader), self._past(graph, prompt)
            start = 0
            for size in sizes:
                ids = prompt.ids[None, start : start + size]  # (1, size)
                step = _step(graph, ids, prompt.past_len + start)
                results = session.run(names, {**step, **attended, **cache})
                yield results[: len(outputs)]
                present = results[len(outputs) :]
                cache = {port.name: kept for port, kept in zip(caches, present, strict=True)}
                start += size

    def _past(self, graph: Graph, prompt: Prompt) -> Feeds:
        """Return the caches before the prompt, with room for it."""
        filled = prompt.past_len
        shape = {"batch": 1, "context": filled + len(prompt.ids)}
        cache = {port.name: np.zeros(port.sized(shape), port.dtype) for port in graph.caches()}
        for array, values in zip(cache.values(), far_past(self.golden.past, filled), strict=True):
            array[0, :, :filled] = values
        return cache


def runs_of(model: GPT | Seq2Seq, graph: Graph, golden: Golden) -> EncoderRuns | DecoderRuns:
    """Return the runs of the part of the model that the graph computes."""
    if isinstance(model, Seq2Seq) and graph.is_encoder:
        return EncoderRuns(model, golden)
    return DecoderRuns(model, golden)


def source_of(prompt: Prompt) -> NDArray[np.int64]:
    """Return the ids of a prompt's source."""
    assert prompt.source is not None, "golden vectors that do not fit their model are refused"
    return prompt.source


def _attended(graph: Graph, reader: Reader) -> Feeds:
    """Return the inputs that tell a decoder of its source; a GPT has none."""
    if isinstance(reader, GPT):
        return {}
    lengths = reader.sources[0][1].numpy()
    kept = [tensor.numpy() for cache, _ in reader.sources for tensor in cache]  # (1, H, N, D)
    feeds = {
        port.name: np.pad(array, BEHIND, constant_values=1).astype(port.dtype)
        for port, array in zip(graph.sources(), kept, strict=True)
    }
    return feeds | {port.name: lengths for port in graph.inputs if port.role == "source_len"}


def _step(graph: Graph, ids: NDArray[np.int64], past: int) -> Feeds:
    """Return the other inputs of a decoder for `ids` [1, T] after `past` tokens."""
    size = ids.shape[1]
    by_role = {
        "ids": ids,
        "past_len": np.array([past]),
        "seqlens_k": np.array([past + size - 1], dtype=np.int32),
        "total_sequence_length": np.array([past + size], dtype=np.int32),
        "position_ids": past + np.arange(size)[None],
        "logit_positions": np.arange(size)[None],
    }
    sizes = {"batch": 1, "new_tokens": size, "logit_positions": size}
    return {
        port.name: by_role[port.role].reshape(port.sized(sizes))
        for port in graph.inputs
        if port.role in by_role
    }
