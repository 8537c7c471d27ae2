"""Let calls into a vendor's library end before the interpreter does.

While the interpreter ends, it stops a daemon thread that returns to Python. If this happens inside
a vendor's C++, it aborts the process. So an exit waits for the calls that are running, and a daemon
thread that wants another one then waits for its end.
"""

import atexit
import os
import threading

__all__ = ["ENGINE_CALLS", "EngineCalls"]

PATIENCE_S = 10.0  # more than a step takes


class EngineCalls:
    """A context for each call. Safe to use from several threads."""

    def __init__(self) -> None:
        """Begin without any call."""
        self.reset()

    def reset(self) -> None:
        """Forget all calls: the threads that are in one are not in a forked child."""
        self._changed = threading.Condition()
        self._running, self._ending = 0, False

    def __enter__(self) -> None:
        with self._changed:
            while self._ending and threading.current_thread().daemon:
                self._changed.wait()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Let no daemon thread begin another call, and wait for those that are running."""
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._running, PATIENCE_S)


ENGINE_CALLS = EngineCalls()
atexit.register(ENGINE_CALLS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ENGINE_CALLS.reset)
