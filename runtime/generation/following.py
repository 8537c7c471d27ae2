"""Beams on the rows of a state: the searches of several prompts advance together.

The beams of a prompt have neighbouring rows. A beam stays in the row of the text that it continues;
only where a text has several children, the others are copied, and only from the slot where they
part. When a search ends, the rows of the last one move into its place. The rows in use are
therefore always 0 .. n - 1, and a step computes only these.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines.base import State
from .beams import BeamSearch, Moves
from .limits import Limits
from .prefill import last_logits, pad

__all__ = ["follow"]


def follow(
    state: State,
    searches: Sequence[BeamSearch],
    told: Callable[[], None],
    limits: Limits | None = None,
) -> None:
    """Run searches of as many beams each to their end; prompts and beams fit the state exactly.

    Args:
        state: its rows are the beams of the searches; their content does not matter.
        searches: at least one; none has advanced yet.
        told: is called after each step.
        limits: when they are reached, the next step is the last one.

    Raises:
        Halted: if the limits are reached before the prompts were fed.
    """
    limits = limits or Limits()
    rows, logits = _Beams(state, searches), _begin(state, searches, limits.check)
    while True:
        moves = [search.advance(own) for search, own in zip(rows.searches, logits, strict=True)]
        told()
        rows.move(moves)
        if not rows.searches:
            return
        reason = limits.reached()
        if reason is not None:
            for search in rows.searches:
                search.end_soon(reason)
        logits = rows.advance()


class _Beams:
    """The searches on a state: `searches[i]` has the rows i * count .. (i + 1) * count - 1."""

    def __init__(self, state: State, searches: Sequence[BeamSearch]) -> None:
        self.state, self.searches = state, list(searches)
        self.count = searches[0].rules.count

    def advance(self) -> NDArray[np.float32]:
        """Feed the newest token of every beam; return the logits [searches, beams, V]."""
        state, texts = self.state, [text for search in self.searches for text in search.texts]
        for row, text in enumerate(texts):
            state.next_ids[row, 0] = text[-1]
            state.past_len[row] = len(text) - 1
        state.decode(len(texts))
        logits = state.logits()  # (B, 1, V)
        return logits.reshape(len(self.searches), self.count, -1)

    def move(self, moves: list[Moves]) -> None:
        """Free the rows of searches that are done; give the others the rows that they go on from.

        Each text has one token that was not fed yet.
        """
        going = [place for place, search in enumerate(self.searches) if not search.done]
        if len(going) < len(self.searches):
            staying = [place for place in going if place < len(going)]
            late = [place for place in going if place >= len(going)]
            going = [place if place in staying else late.pop() for place in range(len(going))]
            self.searches = [self.searches[place] for place in going]
            if not going:
                return
            self.state.reorder(self._rows_of(going), self._slots(self.searches))
        for place, search in enumerate(self.searches):
            parents, since = moves[going[place]]
            if parents != list(range(self.count)):
                rows = [*range(len(self.searches) * self.count)]
                first = place * self.count
                rows[first : first + self.count] = [first + parent for parent in parents]
                self.state.reorder(rows, self._slots([search]), since=since)

    def _rows_of(self, places: Sequence[int]) -> list[int]:
        return [place * self.count + row for place in places for row in range(self.count)]

    @staticmethod
    def _slots(searches: Sequence[BeamSearch]) -> int:
        """Return how many slots are filled at most."""
        return max(len(search.texts[0]) for search in searches) - 1


def _begin(
    state: State, searches: Sequence[BeamSearch], between: Callable[[], None]
) -> NDArray[np.float32]:
    """Feed the prompts; return logits [searches, beams, V], equal for all beams of a search."""
    each, count = state.rows_each, searches[0].rules.count
    prompts = [search.texts[0] for search in searches for _ in range(each)]
    logits = last_logits(state, *pad(prompts), between=between)  # (searches * each, V)
    parents = [place * each for place in range(len(searches)) for _ in range(count)]
    state.reorder(parents, max(len(prompt) for prompt in prompts))
    logits = logits.reshape(len(searches), each, -1)[:, :1]  # (searches, 1, V)
    return np.broadcast_to(logits, (len(searches), count, logits.shape[-1]))
