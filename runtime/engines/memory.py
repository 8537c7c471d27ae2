"""How much memory a generation with a bundle will need."""

from dataclasses import dataclass

from ..bundle.bundle import Bundle
from ..bundle.model_info import ModelInfo
from ..bundle.widening import with_caches
from ..errors import InvalidInputError
from .base import PREFILL_CHUNK
from .support import BACKENDS, NATIVE, fitting

__all__ = ["Memory", "memory_needed", "widening"]

FLOAT32 = 4  # bytes
# Tensors of width n_ff that are alive at once in a feed-forward layer: before and after the
# non-linearity, and the gate if there is one.
WIDE_VALUES = 3


@dataclass(frozen=True)
class Memory:
    """Bytes that one generation needs, without the engine's own code.

    `weights` and `cache` are exact, but for layers that a float16 bundle keeps in float32, which a
    CPU does not widen. `workspace` is the largest set of activations of one layer
    during prefill if every operator runs as the graph says; engines may need less by fusing.
    `sources` are the keys and values of the longest sources that an encoder-decoder reads.
    """

    weights: int
    cache: int
    workspace: int
    sources: int = 0

    @property
    def total(self) -> int:
        """Sum of the four."""
        return self.weights + self.cache + self.workspace + self.sources


def widening(bundle: Bundle, backend: str) -> int:
    """Return how many times as large weights and cache are in memory as in the bundle's types.

    ONNX Runtime computes float16 in float32 on a CPU; see `bundle/widening.py`.
    """
    return 2 if backend == "cpu" and bundle.manifest.precision == "float16" else 1


def memory_needed(
    bundle: Bundle,
    batch: int = 1,
    context: int | None = None,
    backend: str = "",
    *,
    half_cache: bool = False,
) -> Memory:
    """Return the memory for `batch` rows of `context` tokens (default: the block size).

    `backend` is the one that runs the bundle; "": any that computes in the bundle's types. The
    backend "native" keeps keys and values in float32, or in float16 by a `half_cache`.
    """
    info = bundle.manifest.model_info
    context = info.block_size if context is None else context
    if not 1 <= context <= info.block_size:
        raise InvalidInputError(
            f"context is {context}; the model can see 1 to {info.block_size} tokens"
        )
    if batch < 1:
        raise InvalidInputError(f"batch is {batch}; it must be at least 1")
    manifest = bundle.manifest
    sizes = {"batch": batch, "context": context}
    own = fitting(manifest, backend, None) if backend in BACKENDS else []
    decoder = (own or manifest.graphs)[0]
    if backend == NATIVE:
        decoder = with_caches(decoder, "float16" if half_cache else "float32")
    cache = sum(port.nbytes(sizes) for port in decoder.caches())
    weights = sum(entry.size for entry in manifest.weights.values())
    logits = batch * info.vocab_size * FLOAT32
    workspace = _activations(info, batch, min(context, PREFILL_CHUNK), context) + logits
    factor = widening(bundle, backend)
    if info.encoder is None:
        return Memory(factor * weights, factor * cache, workspace)
    longest = info.encoder.block_size  # a source is read in one piece
    sizes = {"sources": batch, "source": longest}
    sources = sum(port.nbytes(sizes) for port in decoder.sources())
    reading = _activations(info.encoder, batch, longest, longest)
    workspace = max(workspace, reading)
    return Memory(factor * weights, factor * cache, workspace, factor * sources)


def _activations(info: ModelInfo, batch: int, tokens: int, seen: int) -> int:
    """Return the bytes of a layer's activations for `tokens` of each row that see so many."""
    scores = batch * info.n_head * tokens * seen * FLOAT32
    return max(scores, WIDE_VALUES * batch * tokens * info.n_ff * FLOAT32)
