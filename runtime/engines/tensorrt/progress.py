"""What the user sees while TensorRT builds, and the way to make it stop.

TensorRT tells phases within phases, from threads of its own. On a terminal the outermost phase is
shown with the time so far; elsewhere nothing is.
"""

import sys
import threading
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .vendor import Vendor

__all__ = ["BuildProgress"]


class BuildProgress:
    """A line on stderr, and a monitor that feeds it; both end with the block.

    Attributes:
        monitor: what a builder's config takes.
    """

    def __init__(self, vendor: Vendor, title: str) -> None:
        """Show `title` before the phases."""
        self.title = title
        self.cancelled = threading.Event()
        console = Console(file=sys.stderr)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=None)
        self.monitor: Any = self._monitor(vendor)

    def cancel(self) -> None:
        """Make TensorRT leave the build at its next step."""
        self.cancelled.set()

    def __enter__(self) -> "BuildProgress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def _monitor(self, vendor: Vendor) -> Any:
        """Return the vendor's monitor; nothing may be raised in it, C++ calls it."""
        progress = self
        depth = {"phases": 0}

        class Monitor(vendor.module.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                vendor.module.IProgressMonitor.__init__(self)

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                if parent is None:
                    depth["phases"] += 1
                    text = f"{progress.title}: {name} (phase {depth['phases']})"
                    progress.bar.update(progress.task, description=text)

            def step_complete(self, name: str, step: int) -> bool:
                return not progress.cancelled.is_set()

            def phase_finish(self, name: str) -> None:
                pass

        return Monitor()
