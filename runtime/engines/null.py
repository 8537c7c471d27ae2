"""An engine for tests, with a cache of token ids and a Python function in place of a network.

It follows the rules of a real engine: new tokens are written into the slots that begin at
`past_len`, and a token sees the content of all slots up to its own. So a caller that gets
positions, padding or rows wrong gets wrong logits.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Graph
from .base import Engine, EngineInfo, Ids, Sources, State

__all__ = ["NullEngine"]

Network = Callable[[Sequence[int]], NDArray[np.float32]]
EMPTY_SLOT = -1


class NullEngine(Engine):
    """Computes logits [V] of the next token by calling `network` with the visible ids."""

    def __init__(self, network: Network, vocab_size: int) -> None:
        self.network, self.vocab_size = network, vocab_size
        self.graph = Graph("null", "", "decoder", "standard", 0, [], [])
        self.steps = 0  # number of steps that its states have run

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        return EngineInfo("null", "0", "cpu", 1)

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> "NullState":
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        assert sources is None, "no encoder-decoder is opened with this engine"
        return NullState(self, rows, context)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class NullState(State):
    """A cache of ids, int64 [R, context]."""

    def __init__(self, engine: NullEngine, rows: int, context: int) -> None:
        super().__init__(rows, context)
        self.engine = engine
        self.slots = np.full((rows, context), EMPTY_SLOT, dtype=np.int64)
        self.result = np.empty((rows, 0, engine.vocab_size), dtype=np.float32)

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]."""
        return self.result

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        self.engine.steps += 1
        for row, past in enumerate(past_len):
            self.slots[first + row, past : past + ids.shape[1]] = ids[row]
        self.result = np.stack(
            [
                np.stack([self._next(first + row, past + place) for place in logit_positions[row]])
                for row, past in enumerate(past_len)
            ]
        )  # (B, P, V)

    def _decode(self, count: int, longest: int) -> None:
        ids = self.next_ids[:count]
        self._run(ids, self.past_len[:count], np.zeros_like(ids), 0)

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        kept = self.slots[sources, since:slots]
        self.slots[targets, since:] = EMPTY_SLOT
        self.slots[targets, since:slots] = kept

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Take the values of the only cache, [1, P, 1], for ids."""
        self.slots[row, : values.shape[1]] = values[0, :, 0]

    def _next(self, row: int, last_slot: int) -> NDArray[np.float32]:
        return self.engine.network([int(token) for token in self.slots[row, : last_slot + 1]])
