"""`edgegpt doctor`: what is installed, what really works, and what repairs the rest."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from edgegpt.errors import EngineError
from edgegpt.runtime.doctor.needs import BACKENDS
from edgegpt.runtime.engines.support import NATIVE

from .console import facts_table, stdout, titled_table, waiting
from .fitting import print_table
from .given_path import PATH

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgegpt.runtime.doctor.diagnosis import Choice, Diagnosis
    from edgegpt.runtime.doctor.fit import BundleFit, Fit

__all__ = ["command"]

COLOURS = {"ok": "green", "limited": "yellow", "missing": "red", "broken": "bold red"}


@click.command(
    help="Show what is installed and what really works, with what mends the rest; and with BUNDLE, "
    "whether it fits here. Exit code 0 if the backend would work, otherwise 1."
)
@click.argument("bundle", type=PATH, required=False)
@click.option(
    "--backend", type=click.Choice(["auto", *BACKENDS, NATIVE]), default="auto", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="print everything as JSON")
def command(bundle: Path | None, backend: str, as_json: bool) -> int:
    """Examine this machine; exit code 0 if `backend` would work, 1 otherwise."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.doctor.diagnosis import diagnose
    from edgegpt.runtime.doctor.fit import fit
    from edgegpt.runtime.doctor.probe import LocalProbe
    from edgegpt.runtime.doctor.report import examine
    from edgegpt.runtime.engines.native.choice import missing
    from edgegpt.runtime.processes import python_program
    from edgegpt.runtime.proof.auto import proved_native

    if python_program() is None:
        raise EngineError(
            f"doctor tries each engine with a Python program, and {sys.executable!r} is none: run "
            f"`python -m edgegpt doctor` in the environment that the application was made from"
        )
    if backend == NATIVE and bundle is None:
        raise click.UsageError("a native engine is of one bundle: give BUNDLE")
    opened = None if bundle is None else Bundle.open(bundle)
    with waiting("looking at this machine"):
        report = examine(LocalProbe())
    diagnosis = diagnose(report)
    bundle_fit = native = unused = None
    if opened is not None:
        native = missing(opened)
        is_proved, unused = proved_native(opened)
        bundle_fit = fit(opened, report, diagnosis, native=is_proved)
    works = (bundle_fit or diagnosis).works(backend)
    if backend == NATIVE:
        works = native is None
    if as_json:
        facts = {
            "backend": backend,
            "works": works,
            "findings": [asdict(finding) for finding in diagnosis.findings],
            "backends": {
                name: {"works": not subjects, "see": subjects}
                for name, subjects in diagnosis.blocked.items()
            },
            "auto": asdict(diagnosis.choice),
            "bundle": None if bundle_fit is None else asdict(bundle_fit),
            "native": native,
            "machine": asdict(report),
        }
        click.echo(json.dumps(facts, indent=1))
        return 0 if works else 1
    console = stdout()
    _print_findings(console, diagnosis)
    if bundle_fit is None:
        _print_backends(console, diagnosis)
    else:
        _print_bundle(console, bundle_fit)
        state = "built and proved" if unused is None else f"built, and not used: {unused}"
        console.print(f"native engine: {native or state}", markup=False)
    _print_verdict(console, backend, works, (bundle_fit or diagnosis).choice)
    return 0 if works else 1


def _print_findings(console: "Console", diagnosis: "Diagnosis") -> None:
    """Print one line for each finding, and below it its remedy, in lines that never break."""
    subjects = max(len(finding.subject) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        table = facts_table()
        for width in (subjects, max(map(len, COLOURS)), None):
            table.add_column(width=width)
        status = Text(finding.status, style=COLOURS[finding.status])
        table.add_row(Text(finding.subject), status, Text(finding.text))
        console.print(table)
        for line in finding.remedy:
            console.print(Text(f"    {line}", style="bold"), soft_wrap=True)


def _print_backends(console: "Console", diagnosis: "Diagnosis") -> None:
    table = _table("backend", "works", "")
    for backend, subjects in diagnosis.blocked.items():
        why = f"see {', '.join(subjects)}" if subjects else ""
        table.add_row(backend, _yes(not subjects), Text(why))
    console.print(table)


def _print_bundle(console: "Console", found: "BundleFit") -> None:
    from edgegpt.runtime.doctor.words import gigabytes

    table = _table("backend", "works", "graph", "needs", "free", "largest context", "batch", "")
    for fit in found.backends:
        table.add_row(*_fit_cells(fit))
    print_table(console, table)
    source = f", the longest source {gigabytes(found.sources)}" if found.sources else ""
    console.print(
        f"bundle {found.id[:12]}, {found.precision}: weights {gigabytes(found.weights)}, cache "
        f"{found.cache_per_token / 1e3:.1f} kB a token{source}"
    )
    row = f"one row of {found.block_size} tokens{' with its source' if found.sources else ''}"
    console.print(f"needs: {row}, the engine itself included")


def _fit_cells(fit: "Fit") -> list[str | Text]:
    from edgegpt.runtime.doctor.words import gigabytes

    unknown: dict[int | None, str] = {None: "unknown"}
    return [
        fit.backend,
        _yes(not fit.obstacle),
        fit.lowering or "-",
        gigabytes(fit.needed),
        gigabytes(fit.memory) if fit.memory else "unknown",
        unknown.get(fit.largest_context, f"{fit.largest_context}"),
        unknown.get(fit.largest_batch, f"{fit.largest_batch}"),
        Text(fit.obstacle),
    ]


def _print_verdict(console: "Console", backend: str, works: bool, choice: "Choice") -> None:
    if choice.backend is None:
        console.print(Text(f"auto would use nothing: {choice.why}"))
    else:
        console.print(Text(f"auto would use {choice.backend}: {choice.why}"))
    if backend != "auto":
        console.print(Text(f"{backend} {'would' if works else 'would not'} work"))


def _table(*columns: str) -> "Table":
    table = titled_table()
    for name in columns:
        table.add_column(name)
    return table


def _yes(works: bool) -> Any:
    return Text("yes", style="green") if works else Text("no", style="red")
