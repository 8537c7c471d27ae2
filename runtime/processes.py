"""Processes: which one opened a model, and how to start another Python.

A forked child has its parent's memory without its threads. An engine whose threads are gone hangs
in its next step, and also when it is closed.
"""

import os
import sys
from pathlib import Path

from .errors import EngineError

__all__ = ["Origin", "python_program"]

NAMES = ("python", "pypy")


class Origin:
    """The process in which something was opened."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is still that process, and not a forked child of it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse to go on in another process, with an `EngineError`."""
        if not self.is_here:
            raise EngineError(
                "the model was opened in another process, from which this one was forked: load it "
                "again in this one"
            )


def python_program() -> str | None:
    """Return the program that starts this Python again; None if there is none.

    In a frozen application `sys.executable` is the application itself, and in one that embeds
    Python it is that program, or empty: starting it would start the application again.
    """
    program = Path(sys.executable or os.devnull)
    frozen = getattr(sys, "frozen", False)
    is_python = program.name.lower().startswith(NAMES) and os.access(program, os.X_OK)
    return str(program) if is_python and not frozen else None
