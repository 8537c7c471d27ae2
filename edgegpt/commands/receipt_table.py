"""How a receipt, and a search for the first wrong place, look in a terminal."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from edgegpt.runtime.proof.receipt import COLUMNS, VERDICTS, Receipt, verdict

if TYPE_CHECKING:
    from edgegpt.export.bisect import Place

__all__ = ["print_places", "print_receipt"]

WIDTH = 120  # of the table where stdout is not a terminal


def print_receipt(receipt: Receipt) -> None:
    """Print one table, a row per check, and the verdict."""
    console = _console()
    title = f"{receipt.graph} in {receipt.precision}"
    if receipt.pending is None:
        engine = f"{receipt.engine} {receipt.engine_version} ({receipt.device})"
        title += f" on {engine} against PyTorch"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        left = name in ("check", "result")
        table.add_column(name, justify="left" if left else "right", no_wrap=left)
    for check in receipt.checks:
        table.add_row(*check.cells(), style=None if check.passed else "red")
    console.print(table)
    if receipt.quality is not None:
        quality = receipt.quality
        style = None if quality.passed else "red"
        console.print(f"{verdict(quality.passed)}  {quality.sentence()}", style=style)
    if receipt.pending is not None:
        console.print(f"not run: {receipt.pending}")
    console.print(f"{VERDICTS[receipt.outcome]}  bundle {receipt.bundle_id[:12]}")


def print_places(graph: str, places: "list[Place]") -> None:
    """Print a row for each place in the graph, and which one is wrong first."""
    console = _console()
    title = f"{graph} against PyTorch, in the order of computation"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("place", "relative", "allowed", "result"):
        table.add_column(name, justify="left" if name in ("place", "result") else "right")
    for place in places:
        cells = (place.name, f"{place.error:.1e}", f"{place.tolerance:.0e}")
        table.add_row(*cells, verdict(place.passed), style=None if place.passed else "red")
    console.print(table)
    wrong = [place.name for place in places if not place.passed]
    console.print(f"first wrong place: {wrong[0]}" if wrong else "no place is wrong")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)
