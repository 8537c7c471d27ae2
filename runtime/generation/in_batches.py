"""Write many texts in batches of sources of about one length."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from .writing import Result

__all__ = ["in_batches"]

T = TypeVar("T", str, list[int])


def in_batches(
    generate: Callable[[Sequence[T]], list[Result]],
    sources: Sequence[T],
    rows: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Return the results of all sources, in their order.

    Args:
        generate: writes the texts of a batch.
        sources: texts, or lists of ids.
        rows: sources in a batch.
        done: called after each batch with how many are done.
    """
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, Result] = {}
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        results = generate([sources[number] for number in chosen])
        found.update(zip(chosen, results, strict=True))
        done(len(found))
    return [found[number] for number in range(len(sources))]
