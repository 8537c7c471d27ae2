"""How far a build is, and the way to make it stop.

TensorRT tells phases within phases, from threads of its own, and what is raised there gets lost in
C++. So it is only noted there, and reported in the thread that waits for the build.
"""

import threading
from typing import Any

from ...progress import Progress
from .flavour import Flavour

__all__ = ["BuildMonitor"]


class BuildMonitor:
    """Notes the phase that began last, and how many steps of the outermost one are done.

    Attributes:
        vendors: what a builder's config takes.
        cancelled: makes TensorRT leave the build at its next step.
    """

    def __init__(self, flavour: Flavour, title: str) -> None:
        """Begin; `title` stands before the phase in what is reported."""
        self.title, self.cancelled = title, threading.Event()
        self.outermost = ""
        self.place, self.reported = (title, 0, 0), ("", 0, 0)  # what, done, total
        self.vendors: Any = self._monitor(flavour)

    def report(self, progress: Progress) -> None:
        """Tell where the build is by now, if it has moved on since the last time."""
        place = self.place
        if place != self.reported:
            self.reported = place
            progress(*place)

    def began(self, phase: str, parent: str | None, steps: int) -> None:
        """Note that a phase of so many steps began."""
        _, done, total = self.place
        if parent is None:
            self.outermost, done, total = phase, 0, steps
        self.place = f"{self.title}: {phase}", done, total

    def finished(self, phase: str, step: int) -> None:
        """Note that the step of this number, from 0, was done."""
        if phase == self.outermost:
            what, _, total = self.place
            self.place = what, step + 1, total

    def _monitor(self, flavour: Flavour) -> Any:
        """Return the vendor's monitor; nothing may be raised in it."""
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
