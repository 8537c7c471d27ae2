"""`edgegpt build --backend native`: compile, pack, prove."""

import json
import logging
import shutil
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from edgegpt.errors import EngineError

from .console import progress, waiting
from .receipt_table import print_receipt

__all__ = ["build_native"]

logger = logging.getLogger(__name__)


def build_native(
    folder: Path, cpu: str | None, target: str | None, out: Path | None, as_json: bool
) -> int:
    """Build the engine of a bundle, and prove it if it is for this machine.

    Returns the exit code: 1 if the proof failed; the engine is removed then.
    """
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.engines.native.choice import open_built
    from edgegpt.runtime.engines.native.compiler import NATIVE, Processor
    from edgegpt.runtime.engines.native.prepare import build_engine
    from edgegpt.runtime.proof.receipt_store import keep
    from edgegpt.runtime.proof.verify import verify_engine

    bundle = Bundle.open(folder)
    processor = Processor(cpu or NATIVE, target)
    with progress() as report:
        prepared = build_engine(bundle, processor, out, report)
    built, receipt, why = prepared.built, None, None
    try:
        with waiting("proving it"), closing(open_built(bundle, built)) as engine:
            receipt = verify_engine(bundle, engine)
    except EngineError as error:
        if processor.is_here:
            raise
        logger.info("not tried: %s", error)
        why = f"this machine is no {built.identity.target} with what {built.identity.cpu} has"
    size = sum(path.stat().st_size for path in built.folder.iterdir())
    if as_json:
        facts = {
            "path": str(built.folder),
            "size": size,
            "seconds": prepared.seconds,
            "proved": None if receipt is None else receipt.passed,
            **asdict(built.identity),
        }
        click.echo(json.dumps(facts, indent=1))
    else:
        if receipt is not None:
            print_receipt(receipt)
        seconds = prepared.seconds
        how = "was there already" if seconds is None else f"built in {seconds:.1f} s"
        proof = f"; not proved here: {why}" if receipt is None else ""
        click.echo(f"{built.folder}: {size / 1e6:.1f} MB, {how} for {built.identity.cpu}{proof}")
    if receipt is None:
        return 0
    keep(receipt)
    if not receipt.passed:
        shutil.rmtree(built.folder, ignore_errors=True)  # Windows keeps a library that is loaded
    return 0 if receipt.passed else 1
