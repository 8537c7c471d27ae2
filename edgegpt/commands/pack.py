"""`edgegpt pack`: a bundle as one file."""

import json
from pathlib import Path

import click

from .given_path import PATH

__all__ = ["command"]


@click.command(help="Write a bundle as one tar file, after checking its hashes.")
@click.argument("bundle", type=PATH)
@click.option("--out", required=True, type=PATH, help="tar file to write")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(bundle: Path, out: Path, as_json: bool) -> None:
    """Pack."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.bundle.pack import pack

    opened = Bundle.open(bundle)
    pack(opened, out)
    size = out.stat().st_size
    result = {"file": str(out), "id": opened.manifest.id, "size": size}
    click.echo(json.dumps(result) if as_json else f"{out}: {size / 1e6:.1f} MB")
