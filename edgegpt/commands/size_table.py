"""Print what the bytes of a bundle are for."""

from typing import TYPE_CHECKING

from .console import stdout, titled_table
from .fitting import print_table

if TYPE_CHECKING:
    from edgegpt.runtime.bundle.bundle import Bundle

__all__ = ["print_sizes"]


def print_sizes(bundle: "Bundle") -> None:
    """Print a row for each part, and the whole."""
    from edgegpt.runtime.bundle.sizes import shares

    console, found = stdout(), shares(bundle)
    table = titled_table("Size")
    for name in ("part", "MB", "export without it"):
        table.add_column(name, justify="right" if name == "MB" else "left", no_wrap=True)
    for share in found:
        table.add_row(share.what, f"{share.size / 1e6:.2f}", share.saved_by)
    table.add_row("in all", f"{sum(share.size for share in found) / 1e6:.2f}", "", style="bold")
    print_table(console, table)
