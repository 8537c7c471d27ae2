"""`edgegpt cache`: what is kept on the disk, and how to get rid of it."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.quantity import quantity

from .given_path import PATH

if TYPE_CHECKING:
    from edgegpt.runtime.cache import Kept

__all__ = ["command"]


@click.group(
    help="Show or remove what is kept on the disk and can be made again. Both have --json."
)
def command() -> None:
    """Group the two."""


@command.command(
    "list",
    help="Show engines that were built and texts that were downloaded, the one used last first. "
    "If EDGEGPT_CACHE_LIMIT is set, such as to 2GB, a build removes engines beyond that.",
)
@click.option("--json", "as_json", is_flag=True, help="print all as JSON")
def show(as_json: bool) -> None:
    """Print a table."""
    from edgegpt.runtime.cache import kept
    from edgegpt.runtime.user_folders import cache_folder

    found = kept()
    if as_json:
        click.echo(json.dumps([_facts(one) for one in found], indent=1))
        return
    total = sum(one.size for one in found)
    for one in found:
        used = datetime.fromtimestamp(one.used).isoformat(" ", "minutes")
        click.echo(f"{one.kind:6}  {one.size / 1e6:10,.1f} MB  {used}  {one.name}")
    what = quantity(len(found), "thing") if found else "nothing"
    click.echo(f"{what} in {cache_folder()}, {total / 1e6:,.1f} MB")


@command.command("clear", help="Remove what `list` shows, or a part of it.")
@click.option("--bundle", type=PATH, help="only engines of this bundle")
@click.option(
    "--down-to", metavar="SIZE", help="only as much, from the one not used for longest: 2GB"
)
@click.option("--json", "as_json", is_flag=True, help="print what was removed as JSON")
def clear(bundle: Path | None, down_to: str | None, as_json: bool) -> None:
    """Remove, and tell how much."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.cache import ENGINES, beyond, kept, parse_size, remove
    from edgegpt.runtime.user_folders import cache_folder

    if bundle is not None and down_to is not None:
        raise InvalidInputError("give --bundle or --down-to, not both")
    unwanted = kept()
    if bundle is not None:
        folder = cache_folder() / ENGINES / Bundle.open(bundle).manifest.id
        unwanted = [one for one in unwanted if folder in one.paths[0].parents]
    if down_to is not None:
        unwanted = beyond(unwanted, parse_size(down_to, "--down-to"))
    remove(unwanted)
    if as_json:
        click.echo(json.dumps([_facts(one) for one in unwanted], indent=1))
        return
    size = sum(one.size for one in unwanted)
    click.echo(f"removed {quantity(len(unwanted), 'thing')}, {size / 1e6:,.1f} MB")


def _facts(one: "Kept") -> dict[str, str | int | float | list[str]]:
    paths = [str(path) for path in one.paths]
    return {"kind": one.kind, "name": one.name, "size": one.size, "used": one.used, "paths": paths}
