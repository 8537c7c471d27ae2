"""Ends of a call that come from outside its texts: a deadline, and a wish to stop."""

import math
import time
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import InvalidInputError

__all__ = ["Cancel", "Halted", "Limits", "Reason"]

Reason = Literal["time", "cancelled"]


class Cancel(Protocol):
    """What tells whether a call is to end; a `threading.Event` does."""

    def is_set(self) -> bool:
        """Return whether the call is to end."""


class Halted(Exception):  # noqa: N818, because nothing is wrong
    """A call ends here. It never leaves `generation`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Limits:
    """The deadline of a call, counted from now on, and its `cancel`."""

    def __init__(self, max_time: float | None = None, cancel: Cancel | None = None) -> None:
        """Begin to count.

        Raises:
            InvalidInputError: if `max_time` is no finite number of seconds, 0 or more, or `cancel`
                has no `is_set`.
        """
        own: Any = max_time
        is_number = isinstance(own, int | float | np.number) and not isinstance(own, bool)
        if own is not None and not (is_number and 0 <= own < math.inf):
            raise InvalidInputError(
                f"max_time is {own!r:.60}; it must be a number of seconds, 0 or more"
            )
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise InvalidInputError(
                f"cancel is {cancel!r:.60}; it must be a threading.Event, or have its is_set"
            )
        self.end = math.inf if max_time is None else time.monotonic() + max_time
        self.cancel = cancel

    def reached(self) -> Reason | None:
        """Return why the call has to end now; None: it goes on."""
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        return "time" if time.monotonic() >= self.end else None

    def check(self) -> None:
        """Raise `Halted` if the call has to end now."""
        reason = self.reached()
        if reason is not None:
            raise Halted(reason)
