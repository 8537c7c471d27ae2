"""Follow the progress of a build, and stop it.

TensorRT reports nested phases from threads of its own, and an error raised there gets lost in C++.
So these threads only note the progress, and the thread that waits for the build reports it.
"""

import threading
from typing import Any

from ...progress import Progress
from .flavour import Flavour

__all__ = ["BuildMonitor"]


class BuildMonitor:
    """Notes the phase that began last, and how many steps of the outermost one are done.

    Attributes:
        vendors: the vendor's monitor, for a builder's config.
        cancelled: when set, TensorRT leaves the build at its next step.
    """

    def __init__(self, flavour: Flavour, title: str) -> None:
        """Begin; reports show `title` before the phase."""
        self.title, self.cancelled = title, threading.Event()
        self.outermost = ""
        self.place, self.reported = (title, 0, 0), ("", 0, 0)  # what, done, total
        self.vendors: Any = self._monitor(flavour)

    def report(self, progress: Progress) -> None:
        """Report where the build is now, if it has moved on since the last report."""
        place = self.place
        if place != self.reported:
            self.reported = place
            progress(*place)

    def began(self, phase: str, parent: str | None, steps: int) -> None:
        """Note that a phase of `steps` steps began."""
        _, done, total = self.place
        if parent is None:
            self.outermost, done, total = phase, 0, steps
        self.place = f"{self.title}: {phase}", done, total

    def finished(self, phase: str, step: int) -> None:
        """Note that step number `step`, counted from 0, is done."""
        if phase == self.outermost:
            what, _, total = self.place
            self.place = what, step + 1, total

    def _monitor(self, flavour: Flavour) -> Any:
        """Return the vendor's monitor, whose methods must not raise."""
        own = self

        class Monitor(flavour.module.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                flavour.module.IProgressMonitor.__init__(self)

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                own.began(name, parent, steps)

            def step_complete(self, name: str, step: int) -> bool:
                own.finished(name, step)
                return not own.cancelled.is_set()

            def phase_finish(self, name: str) -> None:
                pass

        return Monitor()
