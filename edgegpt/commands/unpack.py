"""`edgegpt unpack`: a bundle out of one file."""

import json
from pathlib import Path

import click

from .given_path import PATH

__all__ = ["command"]


@click.command(help="Write the bundle in a tar file to a new folder, checking every hash.")
@click.argument("file", type=PATH)
@click.option("--out", required=True, type=PATH, help="folder to create")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(file: Path, out: Path, as_json: bool) -> None:
    """Unpack."""
    from edgegpt.runtime.bundle.pack import unpack

    bundle = unpack(file, out)
    result = {"bundle": str(out), "id": bundle.manifest.id}
    click.echo(json.dumps(result) if as_json else f"{out}: bundle {bundle.manifest.id[:12]}")
