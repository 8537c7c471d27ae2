"""How fast this machine reads memory, and how many bytes a token must read at least.

Decoding at batch 1 reads every weight once for each token and computes little with it. The time per
token therefore cannot fall below bytes / bandwidth (the memory roof of Williams, Waterman and
Patterson 2009, "Roofline").
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.manifest import Graph, WeightEntry
from ..bundle.sizes import PREFILL_ONLY
from ..machine import Machine

__all__ = ["cache_bytes_per_slot", "read_bandwidth", "weight_bytes_per_token"]

Words = NDArray[np.int64]
# Tables of which a step gathers only one row per token.
GATHERED = ("position_embedding.", "rotary_cos", "rotary_sin", "sinusoids")
EMBEDDING, HEAD, HEAD_BIAS = "token_embedding.", "head.", "head.bias"

CACHE_IF_UNKNOWN = 32 << 20  # bytes
TIMES_CACHE = (4, 8)  # sizes to read, in units of the largest cache
DECODER, SHARED = "decoder.", "encoder.token_embedding."
LARGEST_SHARE = 8  # at most one eighth of the memory is read
LARGEST = 1 << 30  # bytes
READS = 4  # readings of each size


def read_bandwidth(machine: Machine, threads: int) -> float:
    """Return bytes per second read by `threads` threads at once, the best of several readings.

    Each thread ORs the 64-bit words of its own block: one vector instruction for each load. numpy
    runs this without the interpreter's lock.
    """
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for size in _sizes(machine):
            words = max(size // threads // 8, 1)
            # The blocks are written because untouched pages all map to the same zeros.
            blocks = list(pool.map(_filled, [words] * threads))
            for _ in range(READS):
                best = max(best, threads * words * 8 / _seconds(pool, blocks))
            del blocks
    return best


def _sizes(machine: Machine) -> list[int]:
    """Return the sizes to read, in bytes; with little memory there may be only one."""
    most = min(machine.memory_bytes // LARGEST_SHARE or LARGEST, LARGEST)
    cache = machine.cache_bytes or CACHE_IF_UNKNOWN
    return sorted({min(times * cache, most) for times in TIMES_CACHE})


def _filled(words: int) -> Words:
    return np.full(words, 1, dtype=np.int64)


def _seconds(pool: ThreadPoolExecutor, blocks: list[Words]) -> float:
    read: Callable[[Words], np.int64] = np.bitwise_or.reduce
    begin = time.perf_counter()
    for _ in pool.map(read, blocks):
        pass
    return time.perf_counter() - begin


def weight_bytes_per_token(bundle: Bundle, graph: Graph) -> int:
    """Return the bytes of all weights that a decoding step of `graph` reads, at any batch size.

    Embedding tables do not count, because a step gathers only one row of them per token. The token
    embedding does count if the output head is tied to it, because the head reads all of it. Copies
    of weights that only prompts are fed with do not count. A graph with float16 activations reads
    scales, norms and biases as float16.
    """
    weights = bundle.manifest.weights
    if bundle.manifest.model_info.encoder is not None:
        return _of_decoder(weights)
    own_head = any(name.startswith(HEAD) and name != HEAD_BIAS for name in weights)
    gathered = (*GATHERED, EMBEDDING) if own_head else GATHERED
    wide = 2 if graph.part == "half" else 1  # float32 in the file -> float16 in memory
    return sum(
        entry.size // (wide if entry.dtype == "F32" else 1)
        for name, entry in weights.items()
        if not name.startswith(gathered) and not name.endswith(PREFILL_ONLY)
    )


def _of_decoder(weights: dict[str, WeightEntry]) -> int:
    """Return the bytes of a decoder's weights: sources and what encodes them are read once.

    A head that is tied reads the decoder's table, or the encoder's if both share that one.
    """
    head, bias = f"{DECODER}{HEAD}", f"{DECODER}{HEAD_BIAS}"
    tied = not any(name.startswith(head) and name != bias for name in weights)
    own, gathered = f"{DECODER}{EMBEDDING}", tuple(f"{DECODER}{name}" for name in GATHERED)
    table = own if any(name.startswith(own) for name in weights) else SHARED

    def is_read(name: str) -> bool:
        if name.startswith(table):
            return tied
        is_own = name.startswith(DECODER) and not name.startswith(gathered)
        return is_own and ".source_attention.kv." not in name

    return sum(
        entry.size
        for name, entry in weights.items()
        if is_read(name) and not name.endswith(PREFILL_ONLY)
    )


def cache_bytes_per_slot(graph: Graph) -> int:
    """Return the bytes of the keys and values of one token of one row, over all layers."""
    return sum(port.nbytes({"batch": 1, "context": 1}) for port in graph.caches())
