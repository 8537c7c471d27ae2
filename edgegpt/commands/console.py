"""What commands show: tables on stdout, and their progress on stderr.

On a terminal the progress is drawn, with the runtime's log lines, such as that it builds an engine.
Elsewhere, as in a log file, long work prints a line for each of its stages. rich is imported on
use, so that `edgegpt --help` and commands that neither draw nor wait do not need it.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgegpt.log import logged
from edgegpt.runtime.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgegpt.runtime.proof.auto import Settled

__all__ = ["facts_table", "progress", "stdout", "tell_choice", "titled_table", "waiting"]

SILENT = 1.0  # seconds before the first line
PAUSE = 30  # seconds between two lines about one stage
WIDTH = 140  # of tables where stdout is no terminal, and nobody says how wide it is


def stdout() -> "Console":
    """Return the console for results, as wide as the terminal, or as COLUMNS says."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0  # some programs set 0: unknown
    return Console(highlight=False, width=width or WIDTH)


def titled_table(title: str | None = None) -> "Table":
    """Return an empty table with a line below its headings."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading = None if title is None else Text(title)  # not markup: names may contain brackets
    return Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def facts_table() -> "Table":
    """Return an empty table without headings, for a name and a fact in each row."""
    from rich.table import Table

    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def tell_choice(settled: "Settled") -> None:
    """Print which engine "auto" was and why, if that is not plain to see."""
    if settled.note is not None:
        stdout().print(settled.note, markup=False)


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show the current activity and its duration; yield a function that changes the activity."""
    if not _on_terminal():
        yield lambda now: None
        return
    with _drawn(with_bar=False) as show:
        show(what, 0, 0)
        yield lambda now: show(now, 0, 0)


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a function that shows the current activity, how much is done, and the time left."""
    if not _on_terminal():
        lines = _Lines()
        try:
            yield lines.show
        finally:
            lines.close()
        return
    with _drawn(with_bar=True) as show:
        yield show


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None: the caller has closed it


class _Lines:
    """Prints each stage once, and how far a long one has come; a short command prints nothing."""

    def __init__(self) -> None:
        self.start = self.told = time.monotonic()
        self.stage = ""
        self.later: threading.Timer | None = None

    def show(self, what: str, done: int, total: int) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if what != self.stage:
            self.close()
            self.stage, wait = what, SILENT - (now - self.start)
            if wait > 0:  # the command may be over by then
                self.later = threading.Timer(wait, self._print, (what,))
                self.later.daemon = True
                self.later.start()
            else:
                self._print(what)
        elif total and now - self.told >= PAUSE:
            self._print(f"{what}: {done} of {total}")

    def close(self) -> None:
        """Forget the line that is due later."""
        if self.later is not None:
            self.later.cancel()

    def _print(self, line: str) -> None:
        self.told = time.monotonic()
        click.echo(f"{self.told - self.start:6.0f} s  {line}", err=True)


@contextmanager
def _drawn(*, with_bar: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Drawing
    from rich.table import Column

    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        *([BarColumn(), TextColumn("{task.fields[share]}")] if with_bar else []),
        *([TimeRemainingColumn()] if with_bar else []),
        TextColumn(
            "{task.fields[logged]}",
            markup=False,
            style="dim",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    ]
    console = Console(file=sys.stderr)
    with Drawing(*columns, console=console, transient=True, expand=True) as drawing:
        task = drawing.add_task("", total=None, logged="", share="")

        def show(what: str, done: int, total: int) -> None:
            nonlocal task
            if drawing.tasks[0].description != what:  # the time left is that of one activity
                drawing.remove_task(task)
                task = drawing.add_task(what, total=total or None, logged="", share="")
            share = f"{done}/{total}, time left:" if total else ""
            drawing.update(task, total=total or None, completed=done, share=share, logged="")

        with logged(logging.INFO, lambda line: drawing.update(task, logged=line)):
            yield show
