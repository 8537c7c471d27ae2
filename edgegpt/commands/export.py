"""`edgegpt export`: a checkpoint in, a proved bundle out."""

import sys
from pathlib import Path

import click
from rich.console import Console

from .receipt_table import print_receipt

__all__ = ["command"]


@click.command(help="Turn a checkpoint folder into a bundle, and prove that it computes the same.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="bundle folder")
@click.option("--force", is_flag=True, help="replace an earlier bundle in --out")
@click.option("--json", "as_json", is_flag=True, help="print the receipt as JSON")
def command(checkpoint: Path, out: Path, force: bool, as_json: bool) -> None:
    """Export; fails, and leaves nothing behind, if the proof fails."""
    with Console(file=sys.stderr).status("loading PyTorch") as status:
        from edgegpt.export import export_bundle

        receipt = export_bundle(checkpoint, out, force=force, progress=status.update)
    if as_json:
        click.echo(receipt.to_json(), nl=False)
        return
    print_receipt(receipt)
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: {size / 1e6:.1f} MB")
