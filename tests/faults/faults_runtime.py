"""Faults of a runtime: each wraps an engine's state and breaks one of its rules.

A state runs steps in two ways (`step` and `decode`), and a fault may affect only one of them.
"""

from collections.abc import Callable
from contextlib import contextmanager
from itertools import product

import numpy as np

from edgegpt.runtime.engines.base import Engine, EngineInfo, Sources, State

__all__ = ["DECODING_FAULTS", "RUNTIME_FAULTS", "FaultyEngine"]


class FaultyEngine(Engine):
    """An engine whose states are all broken in the same way; `step` may be left honest."""

    def __init__(self, engine: Engine, fault: "type[FaultyState]", *, in_step: bool = True) -> None:
        self.inner, self.fault, self.in_step = engine, fault, in_step
        self.graph = engine.graph

    @property
    def info(self) -> EngineInfo:
        return self.inner.info

    def new_state(self, batch: int, context: int, sources: Sources | None = None) -> State:
        state = self.fault(self.inner.new_state(batch, context, sources))
        state.in_step = self.in_step
        return state

    def encode(self, ids, lengths) -> Sources:
        return self.inner.encode(ids, lengths)

    def close(self) -> None:
        self.inner.close()


class FaultyState(State):
    """Forwards everything to an honest state; a subclass changes one thing."""

    def __init__(self, inner: State) -> None:
        super().__init__(inner.rows, inner.context, inner.source_count)
        self.inner = inner
        self.steps, self.in_step = 0, True

    @contextmanager
    def caches(self):
        """Give all caches, float32 [R, K, S, D], to be edited; a compiled engine gives copies."""
        if hasattr(self.inner, "caches"):
            yield self.inner.caches
            return
        rows = [self.inner.past(self.context, row) for row in range(self.rows)]
        caches = [np.stack(each) for each in zip(*rows, strict=True)]
        yield caches
        for row in range(self.rows):
            self.inner.fill([cache[row] for cache in caches], row)

    def logits(self):
        return self.inner.logits()

    def _run(self, ids, past_len, logit_positions, first) -> None:
        if not self.in_step:
            self.inner.step(ids, past_len, logit_positions, first)
            return
        ids, past_len, logit_positions = self.before(ids, past_len, logit_positions)
        past_len = np.clip(past_len, 0, self.context - ids.shape[1])
        self.inner.step(ids, past_len, logit_positions, self.row(first))
        self.after(past_len, ids.shape[1], first)
        self.steps += 1

    def _decode(self, count: int, longest: int) -> None:
        given, lengths = self.next_ids[:count], self.past_len[:count]
        ids, past_len, _ = self.before(given, lengths, np.zeros_like(given))
        past_len = np.clip(past_len, 0, self.context - 1)
        self.inner.next_ids[:count], self.inner.past_len[:count] = ids, past_len
        self.inner.decode(count)
        self.after(past_len, 1, 0)
        self.steps += 1

    def _copy_rows(self, sources, targets, since, slots) -> None:
        self.inner._copy_rows(sources, targets, since, slots)

    def _move_sources(self, parents) -> None:
        self.inner._move_sources(parents)

    def _fill(self, cache, row, values) -> None:
        self.inner._fill(cache, row, values)

    def before(self, ids, past_len, logit_positions):
        """Return the step's inputs for the engine, possibly damaged."""
        return ids, past_len, logit_positions

    def row(self, first: int) -> int:
        """Return the row that is fed instead of `first`."""
        return first

    def after(self, past_len, length: int, first: int) -> None:
        """Damage the caches after a step."""


class PositionsStuckAfterPrefill(FaultyState):
    """Each new token overwrites the one before."""

    def before(self, ids, past_len, logit_positions):
        if ids.shape[1] > 1:
            self.start = None
        elif getattr(self, "start", None) is None:
            self.start = past_len.copy()
        stuck = past_len if ids.shape[1] > 1 else self.start[: len(past_len)]
        return ids, stuck, logit_positions


class PositionOneLow(FaultyState):
    """Decoding begins one slot too early."""

    def before(self, ids, past_len, logit_positions):
        return ids, past_len - (ids.shape[1] == 1), logit_positions


class PaddingCountsAsTokens(FaultyState):
    """All rows count as if they were as long as the longest."""

    def before(self, ids, past_len, logit_positions):
        return ids, np.full_like(past_len, past_len.max()), logit_positions


class PiecesOverlap(FaultyState):
    """A later piece of a prompt is written one slot too early."""

    def before(self, ids, past_len, logit_positions):
        late = (ids.shape[1] > 1) & (past_len > 0)
        return ids, past_len - late, logit_positions


class StaleCacheAfterReset(FaultyState):
    """A second prompt begins after the first token of the prompt before."""

    def before(self, ids, past_len, logit_positions):
        fresh = (past_len == 0) & (self.steps > 0)
        return ids, past_len + fresh, logit_positions


class LogitsOfTheTokenBefore(FaultyState):
    """The requested position is off by one."""

    def before(self, ids, past_len, logit_positions):
        return ids, past_len, np.maximum(logit_positions - 1, 0)


class RowsSwapped(FaultyState):
    """The first two rows of a batch are fed to each other."""

    def before(self, ids, past_len, logit_positions):
        ids = ids.copy()
        ids[:2] = ids[:2][::-1].copy()
        return ids, past_len, logit_positions


class JoinsAnotherRow(FaultyState):
    """A text that joins others overwrites the row before its own."""

    def row(self, first: int) -> int:
        return max(first - 1, 0)


class CacheWrittenOneSlotLate(FaultyState):
    """Keys and values for slot p are written to slot p + 1."""

    def after(self, past_len, length: int, first: int) -> None:
        with self.caches() as caches:
            for cache, (row, start) in product(caches, enumerate(past_len, start=first)):
                end = min(start + length, self.context - 1)
                cache[row, :, start + 1 : end + 1] = cache[row, :, start:end].copy()
                cache[row, :, start] = 0.0


class CacheRowsMixed(FaultyState):
    """After each step the first two rows of the cache change places."""

    def after(self, past_len, length: int, first: int) -> None:
        with self.caches() as caches:
            for cache in caches:
                cache[:2] = cache[:2][::-1].copy()


class KeysNotWritten(FaultyState):
    """The keys of decoded tokens are lost."""

    def after(self, past_len, length: int, first: int) -> None:
        if length == 1:
            with self.caches() as caches:
                for keys in caches[::2]:
                    for row, start in enumerate(past_len, start=first):
                        keys[row, :, start] = 0.0


RUNTIME_FAULTS: dict[str, Callable[[State], FaultyState]] = {
    "positions not advanced after prefill": PositionsStuckAfterPrefill,
    "decoding position off by one": PositionOneLow,
    "padding counted as tokens": PaddingCountsAsTokens,
    "pieces of a prompt overlap": PiecesOverlap,
    "stale cache after reset": StaleCacheAfterReset,
    "logits of the token before": LogitsOfTheTokenBefore,
    "rows of a batch swapped": RowsSwapped,
    "a text joins another row": JoinsAnotherRow,
    "cache written one slot late": CacheWrittenOneSlotLate,
    "cache row mixed between batch rows": CacheRowsMixed,
    "keys of decoded tokens lost": KeysNotWritten,
}
# The faults that steps of a single token can show.
DECODING_FAULTS = [
    "positions not advanced after prefill",
    "decoding position off by one",
    "padding counted as tokens",
    "rows of a batch swapped",
    "cache written one slot late",
    "cache row mixed between batch rows",
    "keys of decoded tokens lost",
]
