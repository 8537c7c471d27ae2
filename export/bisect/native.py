"""Find the first layer of a compiled engine that computes something different from PyTorch.

An engine has no graph to which outputs could be added. So where its logits are wrong, the library
is compiled once more, in a temporary folder and for the same weights, so that it keeps the residual
stream before the first layer and after each one; of an encoder-decoder those of both stacks, and
what a last norm of the encoder gives. The decoder attends to what the library made of its source,
so its places mean something only if the encoder's are right.
"""

import ctypes
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden_fit import golden_of
from edgegpt.runtime.engines.native.choice import local_graph, open_native
from edgegpt.runtime.engines.native.engine import NativeEngine
from edgegpt.runtime.engines.native.prepare import debug_library
from edgegpt.runtime.engines.native.store import LIBRARY
from edgegpt.runtime.files import scratch_folder
from edgegpt.runtime.proof.far_past import far_past
from edgegpt.runtime.proof.tolerances import tolerance_of

from .compare import Place, check_comparable, compared, first_wrong, in_torch, joined
from .places import Part, part_of
from .runs import Array, DecoderRuns, source_of

__all__ = ["bisect_native"]

LARGEST_LIBRARY = 1 << 24  # bytes


def bisect_native(bundle: Bundle, model: GPT | Seq2Seq, cache: str | None = None) -> list[Place]:
    """Return the logits of the stored engine if they are right; else the layers of its model, too.

    The logits of the stored engine come last: if nothing before them is wrong, it is that library.
    `cache` is the type of keys and values; None: float32.

    Raises:
        CheckpointError: if the settings of `model` differ from those that were exported.
        BundleError: if the bundle is quantised, because it then differs from the checkpoint.
        EngineError: if no engine is built, or the compiler fails.
    """
    check_comparable(bundle, model, "native")
    graph, golden = local_graph(bundle, cache or "float32"), golden_of(bundle)
    part, runs = part_of(model, graph), DecoderRuns(model, golden)
    reference = in_torch(model, part, [*_streams(part), *part.results], runs.in_torch())
    logits = {name: reference.pop(name) for name in part.results}
    with closing(open_native(bundle, None, cache)) as engine:
        tolerance = tolerance_of(bundle, engine)
        found = joined(logits, ([one[-1]] for one in _computed(engine, runs)))
        places = compared(found, logits, tolerance)
        if first_wrong(places) is None:
            return places
        sources = _sources_in_torch(model, engine, runs)
        with scratch_folder(LARGEST_LIBRARY) as folder:
            library = debug_library(bundle, folder / LIBRARY)
            kept = NativeEngine(
                *(engine.built, graph, 1, engine.cache), encoder=engine.encoder, library=library
            )
            width = part.config.n_embd
            of_sources = Streams(library.calls, "edgegpt_keep_source_streams", len(sources), width)
            of_texts = Streams(library.calls, "edgegpt_keep_streams", len(reference), width)
            with closing(kept):
                names = [*sources, *reference, *logits]
                found = joined(names, _computed(kept, runs, of_sources, of_texts))
    return [*compared(found, sources | reference, tolerance), *places]


def _streams(part: Part) -> list[str]:
    """Return the names of the streams that a library keeps of a part, in their order."""
    blocks = dict.fromkeys(layer.block for layer in part.layers[:-1])
    return [f"{part.prefix}embedding", *blocks]


@torch.no_grad()
def _sources_in_torch(
    model: GPT | Seq2Seq, engine: NativeEngine, runs: DecoderRuns
) -> dict[str, Array]:
    """Return the streams of the sources, each encoded alone; nothing for a GPT."""
    if isinstance(model, GPT) or engine.encoder is None:
        return {}
    part = replace(part_of(model, engine.encoder), results=[])
    final = part.layers[-1].norm

    def encoded() -> Iterator[list[Tensor]]:
        for prompt in runs.prompts:
            ids = torch.from_numpy(source_of(prompt))[None]  # (1, N)
            lengths = torch.tensor([ids.shape[1]])
            model.sources(model.encoder(ids, lengths), lengths)
            yield []

    return in_torch(model, part, [*_streams(part), *([final] if final else [])], encoded())


def _computed(
    engine: NativeEngine,
    runs: DecoderRuns,
    of_sources: "Streams | None" = None,
    of_texts: "Streams | None" = None,
) -> Iterator[list[Array]]:
    """Yield the streams of the source [N, C] and of the text [T, C], those that are wanted, and
    the logits [T, V], prompt by prompt.
    """
    for prompt, sizes in zip(runs.prompts, runs.pieces, strict=True):
        kept: list[Array] = []
        past, count, sources = prompt.past_len, len(prompt.ids), None
        if prompt.source is not None:
            length = len(prompt.source)
            kept += of_sources.keep(0, length) if of_sources else []
            sources = engine.encode(prompt.source[None], np.array([length]))  # of ids [1, N]
        kept += of_texts.keep(past, count) if of_texts else []
        logits, start = [], 0
        with engine.new_state(1, past + count, sources) as state:
            if past:
                state.fill(far_past(runs.golden.past, past))
            for size in sizes:
                ids = prompt.ids[None, start : start + size]  # (1, size)
                state.step(ids, np.array([past + start]), np.arange(size)[None])
                logits.append(state.logits()[0].copy())
                start += size
        yield [*kept, np.concatenate(logits)]


class Streams:
    """What a library compiled for it tells of the layers of a stack."""

    def __init__(self, calls: Any, name: str, count: int, width: int) -> None:
        """Prepare for `count` streams of rows [C] of `width`, by the library's function `name`."""
        self.count, self.width, self.call = count, width, getattr(calls, name)
        self.call.argtypes, self.call.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int], None

    def keep(self, first: int, slots: int) -> list[Array]:
        """Return where the next steps put the streams [slots, C] of tokens from `first` on."""
        streams = np.full((self.count, slots, self.width), np.nan, dtype=np.float32)
        self.call(streams.ctypes.data, first, slots)
        return list(streams)
