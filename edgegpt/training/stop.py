"""Ctrl-C and its kin: they end a run after a whole step."""

import signal
import time
from collections.abc import Callable
from typing import Any

__all__ = ["StopRequest"]


class StopRequest:
    """Turns Ctrl-C, SIGTERM or SIGHUP into a request to stop after the current step.

    A step must never be interrupted, because the weights and the optimizer would then disagree.
    Under torchrun one Ctrl-C arrives twice, from the terminal and from the launcher. Signals within
    two seconds of the first therefore count as one; a later one kills. Under nohup SIGHUP is
    ignored, and stays so.
    """

    SAME_REQUEST_SECONDS = 2.0

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Prepare; `tell` is called at once with what the request leads to."""
        self.tell = tell
        self.requested = False
        self.since = 0.0

    def __enter__(self) -> "StopRequest":
        numbers = [signal.SIGINT, signal.SIGTERM]
        hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
        if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
            numbers.append(hang_up)
        self.previous: dict[int, Any] = {
            number: signal.signal(number, self._request) for number in numbers
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self.requested and now - self.since > self.SAME_REQUEST_SECONDS:
            signal.signal(number, self.previous[number])
            signal.raise_signal(number)
        elif not self.requested:
            self.requested, self.since = True, now
            self.tell("stopping after this step, then saving; once more to stop without saving")
