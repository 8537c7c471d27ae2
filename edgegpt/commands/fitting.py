"""Tables in a narrow terminal: without the columns that matter least, or else row by row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .console import facts_table, titled_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_table"]


def print_table(console: "Console", table: "Table", spare: Sequence[str] = ()) -> None:
    """Print a table as it is, if it fits.

    If it does not, the columns with the headings `spare` are left out, as many of them as needed,
    in this order; what was left out is told. If that is not enough, each row is a list.
    """
    there = [column.header for column in table.columns]
    dropped: list[str] = []
    for name in (None, *(name for name in spare if name in there)):
        dropped += [name] if name is not None else []
        smaller = _without(table, dropped)
        if _width(console, smaller) <= console.width:
            console.print(smaller)
            if dropped:
                console.print(f"[dim]too narrow for: {', '.join(dropped)}[/]")
            return
    console.print(_stacked(table))


def _width(console: "Console", table: "Table") -> int:
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update_width(10_000), table).maximum


def _without(table: "Table", dropped: Sequence[str]) -> "Table":
    """Return the table without the columns that have these headings."""
    if not dropped:
        return table
    columns = [column for column in table.columns if column.header not in dropped]
    smaller = titled_table()
    smaller.title = table.title
    for column in columns:
        smaller.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap)
    rows = zip(*(column.cells for column in columns), strict=True)
    for row, cells in zip(table.rows, rows, strict=True):
        smaller.add_row(*cells, style=row.style)
    return smaller


def _stacked(table: "Table") -> "Table":
    """Return each row as lines of a heading and a cell; the first line is the row's first cell."""
    lines = facts_table()
    lines.title, lines.title_justify, lines.title_style = table.title, "left", "bold"
    headings = [column.header for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for row, (first, *cells) in zip(table.rows, rows, strict=True):
        lines.add_row(headings[0], first, style=row.style or "bold")
        for heading, cell in zip(headings[1:], cells, strict=True):
            lines.add_row(heading, cell, style=row.style)
        lines.add_row()
    return lines
