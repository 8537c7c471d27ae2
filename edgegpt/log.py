"""Hand the runtime's log to a function: `edgegpt -v` prints it, a progress bar shows it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["logged"]


@contextmanager
def logged(
    level: int, tell: Callable[[str], object], pattern: str = "%(message)s"
) -> Iterator[None]:
    """Call `tell` for every line of at least `level` that the runtime logs within the block.

    Args:
        level: a level of the module `logging`.
        tell: takes a line; called in the thread that logs.
        pattern: format of a line; see `logging.Formatter`.
    """
    logger, handler = logging.getLogger("edgegpt"), _Teller(tell)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(pattern))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Teller(logging.Handler):
    """Hands log lines to a function."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a line; as with every handler, an error in it does not reach the logging code."""
        try:
            self.tell(self.format(record))
        except Exception:
            self.handleError(record)
