"""Find the first layer of a compiled engine that computes something different from PyTorch.

An engine has no graph to which outputs could be added. So where its logits are wrong, the library
is compiled once more, in a temporary folder and for the same weights, so that it keeps the residual
stream before the first layer and after each one.
"""

import ctypes
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from edgegpt.errors import BundleError
from edgegpt.model import GPT, GPTConfig, Seq2Seq
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.engines.native.choice import local_graph, open_native
from edgegpt.runtime.engines.native.engine import NativeEngine
from edgegpt.runtime.engines.native.library import Library
from edgegpt.runtime.engines.native.prepare import debug_library
from edgegpt.runtime.engines.native.store import LIBRARY
from edgegpt.runtime.files import scratch_folder
from edgegpt.runtime.proof.far_past import far_past
from edgegpt.runtime.proof.tolerances import tolerance_of

from .compare import Place, check_comparable, compared, first_wrong, in_torch, joined
from .places import part_of
from .runs import Array, DecoderRuns

__all__ = ["bisect_native"]

LARGEST_LIBRARY = 1 << 24  # bytes


def bisect_native(bundle: Bundle, model: GPT | Seq2Seq, cache: str | None = None) -> list[Place]:
    """Return the logits of the stored engine if they are right; else the layers of its model, too.

    The logits of the stored engine come last: if nothing before them is wrong, it is that library.
    `cache` is the type of keys and values; None: float32.

    Raises:
        CheckpointError: if the settings of `model` differ from those that were exported.
        BundleError: if the bundle is quantised, because it then differs from the checkpoint, or has
            an encoder.
        EngineError: if no engine is built, or the compiler fails.
    """
    check_comparable(bundle, model, "native")
    if isinstance(model, Seq2Seq):
        raise BundleError("layers of an encoder-decoder on the backend native cannot be compared")
    graph, golden = local_graph(bundle, cache or "float32"), Golden.load(bundle.file(GOLDEN_NAME))
    part, runs = part_of(model, graph), DecoderRuns(model, golden)
    blocks = list(dict.fromkeys(layer.block for layer in part.layers[:-1]))
    names = ["embedding", *blocks, *part.results]
    reference = in_torch(model, part, names, runs.in_torch())
    with closing(open_native(bundle, None, cache)) as engine:
        tolerance = tolerance_of(bundle, engine)
        found = joined(part.results, ([one[-1]] for one in _computed(engine, runs)))
        logits = {name: reference[name] for name in part.results}
        places = compared(found, logits, tolerance)
        if first_wrong(places) is None:
            return places
        with scratch_folder(LARGEST_LIBRARY) as folder:
            library = debug_library(bundle, folder / LIBRARY)
            kept = NativeEngine(engine.built, graph, 1, engine.cache, library=library)
            with closing(kept):
                found = joined(names, _computed(kept, runs, Streams(library, model.config)))
    layers = {name: reference[name] for name in names[:-1]}
    return [*compared(found, layers, tolerance), *places]


def _computed(
    engine: NativeEngine, runs: DecoderRuns, streams: "Streams | None" = None
) -> Iterator[list[Array]]:
    """Yield the streams [T, C], if they are wanted, and the logits [T, V] of each prompt."""
    for prompt, sizes in zip(runs.prompts, runs.pieces, strict=True):
        past, count = prompt.past_len, len(prompt.ids)
        kept = [] if streams is None else streams.keep(past, count)
        logits, start = [], 0
        with engine.new_state(1, past + count) as state:
            if past:
                state.fill(far_past(runs.golden.past, past))
            for size in sizes:
                ids = prompt.ids[None, start : start + size]  # (1, size)
                state.step(ids, np.array([past + start]), np.arange(size)[None])
                logits.append(state.logits()[0].copy())
                start += size
        yield [*kept, np.concatenate(logits)]


class Streams:
    """What a library compiled for it tells of its layers."""

    def __init__(self, library: Library, config: GPTConfig) -> None:
        self.config, self.call = config, library.calls.edgegpt_keep_streams
        self.call.argtypes, self.call.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int], None

    def keep(self, past: int, count: int) -> list[Array]:
        """Return where the next steps put the streams [count, C] of tokens from `past` on."""
        shape = (self.config.n_layer + 1, count, self.config.n_embd)
        streams = np.full(shape, np.nan, dtype=np.float32)
        self.call(streams.ctypes.data, past, count)
        return list(streams)
