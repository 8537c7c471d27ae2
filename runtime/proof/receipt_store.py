"""The receipts that this machine knows: the one that came with a bundle, and its own.

A bundle may lie on a read-only disk. The receipts of `edgegpt verify` on this machine are therefore
kept in the user's state folder, one file for each bundle, graph, engine, engine version, device
and kind of processor: with other instruction sets, an engine runs other kernels.
"""

import json
import logging
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..bundle.bundle import RECEIPT_NAME, Bundle
from ..engines.base import Engine, EngineInfo
from ..engines.support import ENGINES
from ..errors import EdgeGPTWarning
from ..files import write_file
from ..user_folders import state_folder
from .receipt import CHOOSING, RECEIPT_VERSION, Outcome, Receipt

__all__ = ["KnownReceipt", "keep", "known", "missing_proof", "warn_if_unproved"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownReceipt:
    """The part of a stored receipt that says what was checked, where, and the outcome.

    `error` is the largest one, relative to max |logit|, where tokens were chosen.
    """

    engine: str
    engine_version: str
    device: str
    processor: str
    graph: str
    machine: str
    date: str
    outcome: Outcome
    error: float


def keep(receipt: Receipt) -> Path | None:
    """Store a receipt in the user's state folder, in place of an earlier one of the same kind.

    Returns its path, or None after a warning where the folder cannot be written: the verdict holds
    all the same.
    """
    what = (receipt.graph, receipt.engine, receipt.engine_version, receipt.device)
    name = "-".join([*what, *receipt.processor.split()])
    path = _folder(receipt.bundle_id) / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, receipt.to_json().encode())
    except OSError as error:
        warnings.warn(
            f"the receipt is not kept, so that this bundle counts as not verified here: "
            f"{error.filename or path}: {error.strerror or error}; set XDG_STATE_HOME to a folder "
            f"that can be written",
            EdgeGPTWarning,
            stacklevel=2,
        )
        return None
    logger.info("kept the receipt %s", path)
    return path


def known(bundle: Bundle) -> list[KnownReceipt]:
    """Return all receipts of this bundle, the bundle's own first; unreadable ones are left out."""
    own = _folder(bundle.manifest.id)
    paths = [bundle.folder / RECEIPT_NAME, *sorted(own.glob("*.json"))]
    receipts = [_read(path, bundle.manifest.id) for path in paths]
    return [receipt for receipt in receipts if receipt is not None]


def missing_proof(bundle: Bundle, graph: str, engine: EngineInfo) -> str | None:
    """Return why this engine's results for `graph` are not proved, or None if they are."""
    of_engine = [
        receipt
        for receipt in known(bundle)
        if (receipt.engine, receipt.engine_version, receipt.device, receipt.graph)
        == (engine.name, engine.version, engine.device, graph)
    ]
    same = [receipt for receipt in of_engine if receipt.processor == engine.processor]
    where = f"{engine.name} {engine.version} on {engine.device}"
    if of_engine and not same:
        where += f" with this kind of processor ({engine.processor})"
    if any(receipt.outcome == "failed" for receipt in same):
        return f"{bundle.folder} failed its verification on {where}: do not rely on it"
    if not same:
        return (
            f"{bundle.folder} is not verified on {where} yet: run edgegpt verify "
            f"{shlex.quote(str(bundle.folder))} {_chosen_by(engine)}"
        )
    logger.debug("%s is proved on %s by %d receipts", graph, where, len(same))
    return None


def warn_if_unproved(bundle: Bundle, engine: Engine) -> None:
    """Warn with `EdgeGPTWarning` if `missing_proof` gives a reason.

    The warning names the line of the caller's caller.
    """
    reason = missing_proof(bundle, engine.graph.name, engine.info)
    if reason is not None:
        warnings.warn(reason, EdgeGPTWarning, stacklevel=3)


def _chosen_by(engine: EngineInfo) -> str:
    """Return the options of commands that mean this engine, whichever "auto" is."""
    options = f"--backend {engine.name.replace('_', '-')}"
    if engine.name == ENGINES["cpu"]:
        options = "--backend cpu" if engine.device == "cpu" else "--backend cuda"
    options += " --tf32" if engine.tf32 else ""
    return f"{options} --cache float16" if engine.half_cache else options


def _folder(bundle_id: str) -> Path:
    return state_folder() / "receipts" / bundle_id


def _read(path: Path, bundle_id: str) -> KnownReceipt | None:
    if not path.is_file():  # a pipe in its place would never end
        return None
    try:
        body: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("receipt_version") != RECEIPT_VERSION:
        return None
    if body.get("bundle_id") != bundle_id or body.get("outcome") not in get_args(Outcome):
        return None
    names = ("engine", "engine_version", "device", "processor", "graph", "machine", "date")
    if not all(isinstance(body.get(name), str) for name in names):
        return None
    error = _largest_error(body.get("checks"))
    if error is None:
        return None
    return KnownReceipt(
        **{name: body[name] for name in names}, outcome=body["outcome"], error=error
    )


def _largest_error(checks: Any) -> float | None:
    """Return the largest error of the checks that choose tokens, 0 if there is none of them.

    It is None if `checks` is not what a receipt has.
    """
    try:
        errors = [
            float(check["difference"]["relative"])
            for check in checks
            if check["name"].endswith(CHOOSING)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return max(errors, default=0.0)
