"""The bounds on a rendering: the size of each value, the size of all of them, and the time.

A unit is a character of a text, or a sixteenth of a value inside of a list: about four bytes.
"""

import time
from typing import Any

from jinja2.runtime import Context

__all__ = [
    "ITEM",
    "LARGEST",
    "TOO_LARGE",
    "Meter",
    "MeteredContext",
    "RaisedError",
    "RefusedError",
    "extent",
]

LARGEST = 1 << 22  # units of one value: 4 million characters
MOST = 1 << 26  # units of all values of a rendering: about 256 MiB
SECONDS = 5.0  # of a rendering; an honest one takes milliseconds
DEEPEST = 100  # lists inside of lists; JSON of tools has about ten
ITEM = 16  # units of a value inside of a list or a table
TOO_LARGE = "it makes texts or lists that are too large"


class RefusedError(Exception):
    """A template uses something that it may not use, or too much of it."""


class RaisedError(Exception):
    """A template has refused its input, by calling raise_exception."""


class Meter:
    """Counts what one rendering makes, and watches its time."""

    def __init__(self) -> None:
        self.made, self.end = 0, time.monotonic() + SECONDS

    def tick(self) -> None:
        """Refuse to go on after the time is up."""
        if time.monotonic() > self.end:
            raise RefusedError(f"it takes longer than {SECONDS:.0f} seconds")

    def pay(self, units: int) -> None:
        """Refuse a value of so many units if it, or all of them together, would be too large."""
        self.tick()
        self.made += units
        if units > LARGEST or self.made > MOST:
            raise RefusedError(TOO_LARGE)

    def keep(self, value: Any) -> Any:
        """Return a new value, after paying for it, and checking the size of all that it holds."""
        _check_size(value)
        self.pay(extent(value))
        return value


class MeteredContext(Context):
    """The variables of one rendering, and its meter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter()

    def derived(self, locals: dict[str, Any] | None = None) -> "MeteredContext":
        """Return a context with more variables, and the same meter."""
        context = super().derived(locals)
        assert isinstance(context, MeteredContext)
        context.meter = self.meter
        return context


def extent(value: Any) -> int:
    """Return the units of a value, without what its items hold."""
    if isinstance(value, str):
        return ITEM + len(value)
    return ITEM * (1 + len(value)) if isinstance(value, list | tuple | dict) else ITEM


def _check_size(value: Any) -> None:
    """Refuse a value that would be too large if it were written out, or that is nested too deeply.

    A list may hold another one many times over, and so on: what is small in memory may take
    forever to be compared or printed.
    """
    total, level = 0, [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for part in level:
            total += extent(part)
            if total > LARGEST:
                raise RefusedError(TOO_LARGE)
            if isinstance(part, list | tuple):
                below += part
            elif isinstance(part, dict):
                below += [*part, *part.values()]
        if not below:
            return
        level = below
    raise RefusedError("it nests lists too deeply")
