"""Print a receipt, or a search for the first wrong place, in a terminal."""

from typing import TYPE_CHECKING

from edgegpt.runtime.proof.receipt import COLUMNS, MEANING, VERDICTS, Receipt, verdict

from .console import stdout, titled_table
from .fitting import print_table

if TYPE_CHECKING:
    from edgegpt.export.bisect import Place

__all__ = ["print_places", "print_receipt"]

# Columns that a narrow terminal does without, the first of them first.
SPARE = ("KL", "same top-1", "positions", "max abs", "first other token")


def print_receipt(receipt: Receipt) -> None:
    """Print one table, a row per check, and the verdict."""
    console = stdout()
    title = f"{receipt.graph} in {receipt.precision}"
    if receipt.pending is None:
        engine = f"{receipt.engine} {receipt.engine_version} ({receipt.device})"
        title += f" on {engine} against PyTorch"
    table = titled_table(title)
    for name in COLUMNS:
        left = name in ("check", "result")
        table.add_column(name, justify="left" if left else "right", no_wrap=left)
    for check in receipt.checks:
        table.add_row(*check.cells(), style=None if check.passed else "red")
    print_table(console, table, SPARE)
    if receipt.checks:
        console.print(MEANING)
    if receipt.quality is not None:
        quality = receipt.quality
        style = None if quality.passed else "red"
        console.print(f"{verdict(quality.passed)}  {quality.sentence()}", style=style)
    if receipt.pending is not None:
        console.print(f"not run: {receipt.pending}")
    console.print(f"{VERDICTS[receipt.outcome]}  bundle {receipt.bundle_id[:12]}")


def print_places(graph: str, places: "list[Place]") -> None:
    """Print a row for each place in the graph, and which one is wrong first."""
    console = stdout()
    title = f"{graph} against PyTorch, in the order of computation"
    table = titled_table(title)
    for name in ("place", "relative", "allowed", "result"):
        table.add_column(name, justify="left" if name in ("place", "result") else "right")
    for place in places:
        cells = (place.name, f"{place.error:.1e}", f"{place.tolerance:.0e}")
        table.add_row(*cells, verdict(place.passed), style=None if place.passed else "red")
    console.print(table)
    wrong = [place.name for place in places if not place.passed]
    console.print(f"first wrong place: {wrong[0]}" if wrong else "no place is wrong")
