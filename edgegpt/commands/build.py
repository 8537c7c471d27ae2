"""`edgegpt build`: build a TensorRT engine for a bundle, and keep it for later use."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.runtime.quantity import quantity

from .console import progress

if TYPE_CHECKING:
    from edgegpt.runtime.engines.tensorrt.prepare import Prepared

__all__ = ["command"]


@click.command(
    help="Build the TensorRT engine of a bundle, unless it is there already. `generate`, `verify` "
    "and `bench` with the same --backend use the one built last."
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    required=True,
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="tensorrt builds for this machine's GPU, tensorrt-rtx also for others",
)
@click.option("--max-batch", type=int, help="most rows at once; default: 4, as many as the proof's")
@click.option("--max-context", type=int, help="most tokens of a row; default: the block size")
@click.option(
    "--compute-capability",
    metavar="X.Y",
    help="of the GPU to build for, as 8.9; default: this machine's",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="folder for the engine's two files; default: the user's cache, where it is looked for",
)
@click.option("--json", "as_json", is_flag=True, help="print what was built as JSON")
def command(
    bundle: Path,
    backend: str,
    max_batch: int | None,
    max_context: int | None,
    compute_capability: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Build, and print where the engine is stored."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.engines.tensorrt.prepare import Request, build_engine

    request = Request(backend, max_batch, max_context, compute_capability, out)
    with progress() as report:
        prepared = build_engine(Bundle.open(bundle), request, report)
    facts = _facts(prepared)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    how = "was there already" if prepared.seconds is None else f"built in {prepared.seconds:.1f} s"
    click.echo(
        f"{facts['path']}: {facts['size'] / 1e6:.1f} MB, {how}, for "
        f"{quantity(facts['max_batch'], 'row')} of {quantity(facts['max_context'], 'token')} "
        f"on {facts['gpu'] or facts['compute_capability']}"
    )


def _facts(prepared: "Prepared") -> dict[str, Any]:
    engine = prepared.engine
    return {
        "path": str(engine.path),
        "size": len(engine.plan),
        "seconds": prepared.seconds,
        **asdict(engine.identity),
    }
