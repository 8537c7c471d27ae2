"""How the runtime tells how far a long work is: it calls a function, and draws nothing itself."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

# Takes what is being done, how many parts of it are done, and how many there are (0: unknown).
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody: the progress of a caller that gives none."""
