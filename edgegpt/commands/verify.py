"""`edgegpt verify`: is this bundle the exported one, and does this machine compute it rightly?"""

import json
import sys
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from edgegpt.errors import BundleError

from .receipt_table import print_receipt

__all__ = ["command"]


@click.command(help="Check a bundle's files, then compare its engine with the golden vectors.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="auto or cpu")
@click.option(
    "--check",
    type=click.Choice(["hash", "size"]),
    default="hash",
    show_default=True,
    help="how to check the files' bytes first",
)
@click.option("--report", type=click.Path(path_type=Path), help="write an HTML page, too")
@click.option("--threads", type=click.IntRange(min=1), help="default: the physical cores")
@click.option("--json", "as_json", is_flag=True, help="print the receipt as JSON")
def command(
    bundle: Path,
    backend: str,
    check: Literal["hash", "size"],
    report: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Verify; exit code 0 if everything passed, 1 otherwise."""
    from edgegpt.runtime.bundle import Bundle
    from edgegpt.runtime.receipts import keep
    from edgegpt.runtime.report import write_html
    from edgegpt.runtime.verify import verify

    try:
        with Console(file=sys.stderr).status(f"verifying {bundle}"):
            receipt = verify(Bundle.open(bundle), backend, check, threads)
    except BundleError as error:
        if as_json:
            click.echo(json.dumps({"passed": False, "error": str(error)}))
        raise
    if check == "hash":  # a receipt vouches for the bytes, too
        keep(receipt)
    if report is not None:
        write_html(receipt, report)
    if as_json:
        click.echo(receipt.to_json(), nl=False)
    else:
        print_receipt(receipt)
    return 0 if receipt.passed else 1
