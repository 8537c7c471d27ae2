"""Feeding prompts: rows of different length as one batch, in pieces that bound the memory.

Rows are padded on the right. The padding's cache slots lie behind the row's own tokens and are
overwritten before a later token can see them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import PREFILL_CHUNK, State
from ..errors import EngineError

__all__ = [
    "all_logits",
    "even_pieces",
    "last_logits",
    "logit_pieces",
    "pad",
    "pieces_that_fit",
]

LARGEST_LOGITS = 2**25  # most logits of a piece, 128 MB: large vocabularies get small pieces

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def pad(rows: Sequence[Sequence[int] | Ids]) -> tuple[Ids, Ids]:
    """Return rows as one array [B, longest], padded on the right with id 0, and lengths [B]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return ids, lengths


def last_logits(
    state: State,
    ids: Ids,
    lengths: Ids,
    chunk: int | None = None,
    first: int = 0,
    between: Callable[[], None] = lambda: None,
) -> Logits:
    """Refill B rows, beginning with row `first`, from `ids` [B, T], of which row b has lengths[b].

    They are fed in pieces of at most `chunk` tokens; None: of as many as suit the state, or of
    `PREFILL_CHUNK` where there is no room for more. `between` is called before each piece.
    Returns the logits of each row's last token [B, V]; other rows of the state stay as they are.
    """
    if chunk is None and min(state.prompt_piece, ids.shape[1]) > PREFILL_CHUNK:
        with contextlib.suppress(EngineError):
            return last_logits(state, ids, lengths, state.prompt_piece, first, between)
    rows: list[Logits | None] = [None] * len(ids)
    size = chunk or min(state.prompt_piece, PREFILL_CHUNK)
    for start, end in _pieces(even_pieces(ids.shape[1], size), ids.shape[1]):
        between()
        count = int(np.flatnonzero(lengths > start)[-1]) + 1  # all later rows have ended
        last = (lengths[:count] - 1 - start).clip(0, end - start - 1)
        past_len = np.full(count, start, dtype=np.int64)
        state.step(ids[:count, start:end], past_len, last[:, None], first)
        logits = state.logits()  # (count, 1, V)
        for row in np.flatnonzero((lengths > start) & (lengths <= end)):
            rows[row] = logits[row, 0].copy()
    return np.stack([row for row in rows if row is not None])


def all_logits(state: State, ids: Ids) -> Logits:
    """Fill an empty cache with `ids` [B, T]; return all logits [B, T, V]."""
    pieces = logit_pieces(state, ids, even_pieces(ids.shape[1], PREFILL_CHUNK))
    return np.concatenate([logits.copy() for _, logits in pieces], axis=1)


def logit_pieces(state: State, ids: Ids, sizes: Sequence[int]) -> Iterator[tuple[int, Logits]]:
    """Fill an empty cache with `ids` [B, T] in pieces of `sizes` tokens.

    Yields each piece's first token and its logits [B, size, V], valid until the next piece.
    """
    for start, end in _pieces(sizes, ids.shape[1]):
        positions = np.tile(np.arange(end - start), (len(ids), 1))  # (B, end - start)
        state.step(ids[:, start:end], np.full(len(ids), start, dtype=np.int64), positions)
        yield start, state.logits()


def even_pieces(length: int, size: int) -> list[int]:
    """Return how to cut `length` tokens into pieces of at most `size`: few, and about as long."""
    count = -(-length // size)
    return [-(-length // count)] * count if count else []


def pieces_that_fit(rows: int, length: int, vocab_size: int) -> list[int]:
    """Return how to cut `rows` of `length` tokens so that no piece has too many logits."""
    fitting = max(1, LARGEST_LOGITS // (rows * vocab_size))
    return even_pieces(length, min(PREFILL_CHUNK, fitting))


def _pieces(sizes: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in sizes:
        end = min(start + size, length)
        yield start, end
        start = end
