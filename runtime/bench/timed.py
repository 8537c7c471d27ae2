"""An engine that wraps another one and adds up the time spent inside it.

The rest of a token's time is the host's share: checking inputs, choosing tokens, the generation
loop, text. Setting up the engine's buffers for a step counts as the engine's time.
"""

import time

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, EngineInfo, Ids, Sources, State

__all__ = ["TimedEngine"]


class Clock:
    """Seconds spent inside an engine so far; a context manager."""

    def __init__(self) -> None:
        self.seconds, self.begin = 0.0, 0.0

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.begin


class TimedEngine(Engine):
    """Hands every call on to `inner`. Only for one thread, because its states share one clock."""

    def __init__(self, inner: Engine) -> None:
        self.inner, self.graph, self.encoder = inner, inner.graph, inner.encoder
        self.clock = Clock()

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        return self.inner.info

    @property
    def seconds(self) -> float:
        """Time spent inside the states of this engine so far."""
        return self.clock.seconds

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> "TimedState":
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        return TimedState(self.inner.new_state(rows, context, sources), self.clock)

    def slots(self, needed: int, context: int) -> int:
        """Return what the inner engine wants."""
        return self.inner.slots(needed, context)

    def encode(self, ids: Ids, lengths: Ids) -> Sources:
        """Encode sources."""
        with self.clock:
            return self.inner.encode(ids, lengths)

    def close(self) -> None:
        """Close the inner engine."""
        self.inner.close()


class TimedState(State):
    """Hands every call on to `inner`, shares its buffers, and times the calls that compute or copy.

    The checks of `step` and `decode` are inherited, and run outside the clock.
    """

    def __init__(self, inner: State, clock: Clock) -> None:
        super().__init__(inner.rows, inner.context, inner.source_count)
        self.next_ids, self.past_len = inner.next_ids, inner.past_len
        self.prompt_piece = inner.prompt_piece
        self.inner, self.clock = inner, clock

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]."""
        with self.clock:  # an engine with its own memory copies or waits here
            return self.inner.logits()

    def close(self) -> None:
        """Close the inner state."""
        self.inner.close()

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        with self.clock:
            self.inner._run(ids, past_len, logit_positions, first)

    def _decode(self, count: int, longest: int) -> None:
        with self.clock:
            self.inner._decode(count, longest)

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        with self.clock:
            self.inner._copy_rows(sources, targets, since, slots)

    def _move_sources(self, parents: list[int]) -> None:
        with self.clock:
            self.inner._move_sources(parents)

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        with self.clock:
            self.inner._fill(cache, row, values)
