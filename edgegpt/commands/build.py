"""`edgegpt build`: build an engine for a bundle on the device, and keep it for later use."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.quantity import quantity

from .console import progress
from .given_path import PATH, GivenPath

if TYPE_CHECKING:
    from edgegpt.runtime.engines.tensorrt.prepare import Prepared

__all__ = ["command"]


@click.command(
    help="Build an engine for a bundle, unless it is there already: TensorRT's for a GPU, or one "
    "for this processor, which is compiled and proved. `generate`, `verify` and `bench` with the "
    "same --backend use the one built last; `auto` is a native one that is proved."
)
@click.argument("bundle", type=PATH)
@click.option(
    "--backend",
    required=True,
    type=click.Choice(["native", "tensorrt", "tensorrt-rtx"]),
    help="native builds for a CPU, tensorrt for this machine's GPU, tensorrt-rtx also for others",
)
@click.option(
    "--cpu",
    help="native: the processor, as the compiler names it, such as cortex-a76 or x86-64-v3; "
    "default: this machine's",
)
@click.option("--target", help="native: another system to build for, such as aarch64-linux")
@click.option(
    "--max-batch", type=int, help="TensorRT: most rows at once; default: 4, as many as the proof's"
)
@click.option(
    "--max-context", type=int, help="TensorRT: most tokens of a row; default: the block size"
)
@click.option(
    "--compute-capability",
    metavar="X.Y",
    help="TensorRT: of the GPU to build for, as 8.9; default: this machine's",
)
@click.option(
    "--out",
    type=GivenPath(path_type=Path, file_okay=False),
    help="folder for the engine; default: the user's cache, where it is looked for",
)
@click.option("--json", "as_json", is_flag=True, help="print what was built as JSON")
def command(
    bundle: Path,
    backend: str,
    cpu: str | None,
    target: str | None,
    max_batch: int | None,
    max_context: int | None,
    compute_capability: str | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Build, and print where the engine is stored; exit code 1 if it is proved wrong."""
    of_gpu = {
        "--max-batch": max_batch,
        "--max-context": max_context,
        "--compute-capability": compute_capability,
    }
    _refuse(backend, of_gpu if backend == "native" else {"--cpu": cpu, "--target": target})
    if backend == "native":
        from .build_native import build_native

        return build_native(bundle, cpu, target, out, as_json)

    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.engines.tensorrt.prepare import Request, build_engine

    request = Request(backend, max_batch, max_context, compute_capability, out)
    with progress() as report:
        prepared = build_engine(Bundle.open(bundle), request, report)
    facts = _facts(prepared)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return 0
    how = "was there already" if prepared.seconds is None else f"built in {prepared.seconds:.1f} s"
    click.echo(
        f"{facts['path']}: {facts['size'] / 1e6:.1f} MB, {how}, for "
        f"{quantity(facts['max_batch'], 'row')} of {quantity(facts['max_context'], 'token')} "
        f"on {facts['gpu'] or facts['compute_capability']}"
    )
    return 0


def _refuse(backend: str, others: dict[str, int | str | None]) -> None:
    """Refuse options that are of the other kind of backend."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InvalidInputError(f"{given[0]} is not for the backend {backend}")


def _facts(prepared: "Prepared") -> dict[str, Any]:
    engine = prepared.engine
    return {
        "path": str(engine.path),
        "size": len(engine.plan),
        "seconds": prepared.seconds,
        **asdict(engine.identity),
    }
