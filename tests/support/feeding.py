"""Texts fed to a state in pieces, as a batch of prompts and their continuations are."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgegpt.runtime.engines.base import State

__all__ = ["fed", "greedy", "relative_error"]

Logits = NDArray[np.float32]
POISON = 1e4  # what the caches hold at first


def fed(state: State, rows: NDArray[np.int64], feeds: Iterable[Sequence[int]]) -> list[Logits]:
    """Return the logits [N, V] of the first N ids of each of the texts `rows` [R, T].

    Each feed has the number of new ids of each row; shorter rows are padded with noise.
    """
    for cache in state.caches:
        cache[:] = POISON
    rng, done = np.random.default_rng(1), np.zeros(len(rows), dtype=np.int64)
    found: list[list[Logits]] = [[] for _ in rows]
    for fresh in feeds:
        size = max(fresh)
        ids = rng.integers(0, rows.max() + 1, (len(rows), size))
        for row, count in enumerate(fresh):
            ids[row, :count] = rows[row, done[row] : done[row] + count]
        state.step(ids, done, np.tile(np.arange(size), (len(rows), 1)))
        for own, logits, count in zip(found, state.logits(), fresh, strict=True):
            own.append(logits[:count].copy())
        done = done + fresh
    return [np.concatenate(own) for own in found]


def relative_error(found: list[Logits], wanted: Logits) -> float:
    """Return the largest difference from `wanted` [R, T, V], as a part of its largest logit."""
    pairs = zip(found, wanted, strict=True)
    differences = [np.abs(own - logits[: len(own)]).max() for own, logits in pairs]
    return float(np.max(differences) / np.abs(wanted).max())


def greedy(state: State, prompt: Sequence[int], count: int) -> list[int]:
    """Return the prompt and the `count` likeliest tokens after it, in the first row of `state`."""
    text, done = list(prompt), 0
    for _ in range(count):
        fresh = np.array([text[done:]])  # (1, T)
        state.step(fresh, np.array([done]), np.array([[fresh.shape[1] - 1]]))
        done = len(text)
        text.append(int(state.logits()[0, 0].argmax()))
    return text
