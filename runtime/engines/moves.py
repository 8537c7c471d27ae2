"""Order copies between cache rows so that one after another they act like all at once."""

from collections import Counter, deque
from collections.abc import Sequence

__all__ = ["SPARE", "moves_in_order"]

SPARE = -1  # the number of a spare row outside of the cache


def moves_in_order(sources: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int]]:
    """Return (source, target) pairs in an order in which no row is overwritten before it is read.

    Where rows change places in a cycle, one of them is first copied to the row SPARE. No target may
    occur twice, and no row may be its own target.
    """
    waiting = dict(zip(targets, sources, strict=True))  # target -> source
    readers = Counter(sources)
    free = deque(row for row in targets if not readers[row])
    moves = []
    while waiting:
        if not free:  # only cycles are left
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
