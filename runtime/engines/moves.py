"""Copies between the rows of a cache, one after another, that do what all at once would do."""

from collections import Counter, deque
from collections.abc import Sequence

__all__ = ["SPARE", "moves_in_order"]

SPARE = -1  # stands for a row outside of the cache


def moves_in_order(sources: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int]]:
    """Return (source, target) pairs in an order in which no row is overwritten before it is read.

    Where rows change places in a circle, one of them waits in the row SPARE meanwhile. No target
    is there twice, and no row is its own target.
    """
    waiting = dict(zip(targets, sources, strict=True))  # target -> source
    readers = Counter(sources)
    free = deque(row for row in targets if not readers[row])
    moves = []
    while waiting:
        if not free:  # only circles are left
            row = next(iter(waiting))
            moves.append((row, SPARE))
            for target, source in waiting.items():
                if source == row:
                    waiting[target] = SPARE
            free.append(row)
        target = free.popleft()
        source = waiting.pop(target)
        moves.append((source, target))
        readers[source] -= 1
        if readers[source] == 0 and source in waiting:
            free.append(source)
    return moves
