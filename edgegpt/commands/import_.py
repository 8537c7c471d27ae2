"""`edgegpt import`: a checkpoint from elsewhere in, a checkpoint folder out."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgegpt.errors import CheckpointError

from .console import progress
from .given_path import PATH, GivenPath

if TYPE_CHECKING:
    from edgegpt.importers.importing import Named

__all__ = ["command"]


@click.command(
    help="Import a model: SRC is a Hugging Face folder, a Hub id such as Qwen/Qwen3-0.6B, a GGUF "
    "file, or a PyTorch file of nanoGPT, of a lesson, or with an nn.Transformer."
)
@click.argument("source", metavar="[SRC]", type=GivenPath(), required=False)
@click.option("--out", type=PATH, help="checkpoint folder")
@click.option("--check", is_flag=True, help="only look: family, size, time to expect, or why not")
@click.option("--list", "as_list", is_flag=True, help="print the known families, and those refused")
@click.option("--revision", help="of a Hub id: branch, tag or commit")
@click.option("--adapter", type=PATH, help="folder of a LoRA adapter (PEFT) to merge")
@click.option(
    "--text-only", is_flag=True, help="of a model that reads more, such as images: its text model"
)
@click.option(
    "--n-head", type=click.IntRange(min=1), help="heads, of a state dict that does not tell"
)
@click.option(
    "--shape",
    type=PATH,
    help="TOML file with what an encoder-decoder's state dict does not tell (docs/models.md)",
)
@click.option(
    "--attention-scale",
    type=click.Choice(["head_dim", "n_embd"]),
    help="of the lesson: its scores were multiplied by this width to the power -1/2; default: "
    "what --data shows, else head_dim",
)
@click.option(
    "--data",
    type=PATH,
    help="text on which the better --attention-scale is measured",
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    source: str | None,
    out: Path | None,
    check: bool,
    as_list: bool,
    revision: str | None,
    adapter: Path | None,
    text_only: bool,
    n_head: int | None,
    shape: Path | None,
    attention_scale: Literal["head_dim", "n_embd"] | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Import; fails, and leaves nothing behind, if something is not known."""
    from .import_tables import print_check, print_families

    if as_list:
        print_families(as_json)
        return
    if source is None:
        raise click.UsageError("name what to import, or ask for --list")
    from edgegpt.importers.importing import Named

    named = Named(
        source, revision, adapter, n_head, attention_scale, shape, data, text_only=text_only
    )
    if check:
        from edgegpt.importers.check import report
        from edgegpt.importers.importing import survey

        with progress() as tell:
            found = report(survey(named, values=False, progress=tell))
        print_check(found, as_json)
        return
    if out is None:
        raise click.UsageError("name the checkpoint folder to write: --out CKPT")
    _import(named, out, as_json)


def _import(named: "Named", out: Path, as_json: bool) -> None:
    if os.path.lexists(out):
        raise CheckpointError(f"{out} exists already; choose another --out")
    from edgegpt.importers.importing import survey, write_checkpoint
    from edgegpt.runtime.files import check_room, new_folder

    with progress() as tell:
        found = survey(named, progress=tell)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    check_room(out, found.model.size)
    with progress() as tell, new_folder(out) as folder:
        write_checkpoint(found, folder, tell)
    model = found.model
    count, family = model.parameter_count, model.family
    if as_json:
        result = {
            "checkpoint": str(out),
            "family": family.model_type,
            "parameters": count,
            "model": model.config.to_dict(),
            "notes": found.notes,
        }
        click.echo(json.dumps(result))
    else:
        click.echo(f"{out}: {count:,} parameters, {family.model_type}, {model.source.name}")
