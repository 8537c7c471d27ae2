"""`edgegpt verify`: is this bundle the exported one, and does this machine compute it rightly?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgegpt.errors import BundleError

from .console import tell_choice, waiting
from .engine_options import engine_options
from .given_path import PATH
from .outputs import check_writable, tell_written
from .receipt_table import print_places, print_receipt

if TYPE_CHECKING:
    from edgegpt.runtime.engines.options import EngineOptions

__all__ = ["command"]


@click.command(help="Check a bundle's files, then compare its engine with the golden vectors.")
@click.argument("bundle", type=PATH)
@engine_options
@click.option(
    "--check",
    type=click.Choice(["hash", "size"]),
    default="hash",
    show_default=True,
    help="how to check the files' bytes first",
)
@click.option("--report", type=PATH, help="write an HTML page, too")
@click.option(
    "--bisect",
    "checkpoint",
    type=PATH,
    metavar="CKPT",
    help="find the first wrong place, comparing with this checkpoint; needs PyTorch",
)
@click.option("--json", "as_json", is_flag=True, help="print the receipt as JSON")
def command(
    bundle: Path,
    check: Literal["hash", "size"],
    report: Path | None,
    checkpoint: Path | None,
    engine: "EngineOptions",
    as_json: bool,
) -> int:
    """Verify; exit code 0 if everything passed, 1 if not, or if no engine here runs the bundle."""
    check_writable(report)
    if checkpoint is not None:
        return _bisect(bundle, checkpoint, engine, as_json)
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.proof.auto import settle
    from edgegpt.runtime.proof.receipt_page import write_html
    from edgegpt.runtime.proof.receipt_store import keep
    from edgegpt.runtime.proof.verify import verify

    try:
        with waiting(f"verifying {bundle}"):
            opened = Bundle.open(bundle)
            settled = settle(opened, engine)
            receipt = verify(opened, settled.options, check)
    except BundleError as error:
        if as_json:
            click.echo(json.dumps({"passed": False, "error": str(error)}))
        raise
    if as_json:
        click.echo(receipt.to_json(), nl=False)
    else:
        print_receipt(receipt)
        if receipt.passed:  # "proved" below a FAIL would be of an earlier proof
            tell_choice(settled)
    if report is not None:
        write_html(receipt, opened.name, report)
        tell_written(report)
    # A kept receipt also vouches for the files' bytes. A pending receipt vouches for nothing.
    if check == "hash" and receipt.outcome != "pending":
        keep(receipt)
    return 0 if receipt.passed else 1


def _bisect(path: Path, checkpoint: Path, engine: "EngineOptions", as_json: bool) -> int:
    """Print every place with its error; exit code 1 if one is out of tolerance."""
    with waiting("comparing with PyTorch, place by place"):
        from edgegpt.checkpoint import load_checkpoint
        from edgegpt.export.bisect import bisect, bisect_native, first_wrong
        from edgegpt.runtime.bundle.bundle import Bundle
        from edgegpt.runtime.engines.support import NATIVE
        from edgegpt.runtime.proof.auto import settle

        bundle = Bundle.open(path)
        settled = settle(bundle, engine)
        whole = load_checkpoint(checkpoint)
        info = bundle.manifest.model_info
        longest = max(part.block_size for part in (info, info.encoder) if part is not None)
        model = whole.limited(min(longest, whole.config.block_size)).model
        if settled.options.backend == NATIVE:
            results = {"native": bisect_native(bundle, model, engine.cache)}
        else:
            results = {graph.name: bisect(bundle, model, graph) for graph in bundle.manifest.graphs}
    wrong = {name: first_wrong(places) for name, places in results.items()}
    if as_json:
        body = {
            name: {"first_wrong": wrong[name], "places": [asdict(place) for place in places]}
            for name, places in results.items()
        }
        click.echo(json.dumps(body, indent=1))
    else:
        for name, places in results.items():
            print_places(name, places)
        tell_choice(settled)
    return 1 if any(wrong.values()) else 0
