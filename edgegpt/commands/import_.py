"""`edgegpt import`: a checkpoint of the "GPT from scratch" layout in, a checkpoint folder out."""

import json
from pathlib import Path
from typing import Literal

import click

from edgegpt.errors import CheckpointError

__all__ = ["command"]


@click.command(help='Read a state dict of the "GPT from scratch" lesson (heads as a list).')
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="checkpoint folder")
@click.option(
    "--attention-scale",
    type=click.Choice(["head_dim", "n_embd"]),
    default="head_dim",
    show_default=True,
    help="the model multiplied its scores by this width to the power -1/2",
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    file: Path, out: Path, attention_scale: Literal["head_dim", "n_embd"], as_json: bool
) -> None:
    """Import; the new checkpoint has no tokenizer, because such files do not contain one."""
    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another --out")

    from edgegpt.importers.open import open_source
    from edgegpt.importers.run import look, write
    from edgegpt.runtime.files import new_folder

    found = look(open_source(file, attention_scale=attention_scale))
    with new_folder(out) as folder:
        write(found, folder)
    click.echo(
        "warning: the file has no tokenizer; the model takes and gives token ids. Put its "
        f"tokenizer.json into {out} to work with text.",
        err=True,
    )
    count = found.parameter_count
    if as_json:
        result = {"checkpoint": str(out), "parameters": count, "model": found.config.to_dict()}
        click.echo(json.dumps(result))
    else:
        click.echo(f"{out}: {count:,} parameters")
