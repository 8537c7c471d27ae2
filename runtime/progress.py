"""Progress of long work: the runtime reports it to a function, and draws nothing itself."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

# Arguments: what is being done, how many parts are done, how many there are (0: unknown).
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Ignore progress; the default where the caller passes no function."""
