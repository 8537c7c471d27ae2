"""What `edgegpt import --list` and `--check` print: the known families, and what to expect."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .console import facts_table, stdout, titled_table

if TYPE_CHECKING:
    from edgegpt.importers.check import Check

__all__ = ["print_check", "print_families"]


def print_families(as_json: bool) -> None:
    """Print the families of models that can be imported, and those that cannot, with reasons."""
    from edgegpt.importers.architectures import FAMILIES, REFUSED

    known = {name: FAMILIES[name].models for name in sorted(FAMILIES)}
    refused = dict(sorted(REFUSED.items()))
    if as_json:
        click.echo(json.dumps({"families": known, "refused": refused}, indent=1))
        return
    reasons: dict[str, list[str]] = {}
    for name, reason in refused.items():
        reasons.setdefault(reason, []).append(name)
    console = stdout()
    for title, names, rows in (
        ("Families that are imported", ("model_type", "models"), list(known.items())),
        (
            "Families that are refused",
            ("why", "model_type"),
            [(reason, ", ".join(group)) for reason, group in sorted(reasons.items())],
        ),
    ):
        table = titled_table(title)
        for name in names:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)


def print_check(check: "Check", as_json: bool) -> None:
    """Print what is known about a source, and what to expect of its import and export."""
    if as_json:
        click.echo(json.dumps(asdict(check), indent=1))
        return
    rows = {
        "source": check.name,
        "family": f"{check.family} ({check.models})",
        "licence": _licence(check),
        "parameters": f"{check.parameters:,}",
        "weights": f"{_size(check.source_bytes)} in the source; on the device "
        + ", ".join(f"{name} {_size(size)}" for name, size in check.device_bytes.items()),
        "context": f"{check.context:,} tokens; exported for {check.export_context:,}"
        + (f" and sources of {check.source_context:,}" if check.source_context else "")
        + f", whose cache takes {_size(check.cache_bytes)}",
        "import": f"about {_time(check.import_seconds)} and {_size(check.import_memory)} of memory",
        "export": "about "
        + ", ".join(f"{_time(time)} for {name}" for name, time in check.export_seconds.items())
        + f", and {_size(check.export_memory)} of memory",
        "disk": f"about {_size(check.disk_bytes)} for the checkpoint and a float32 bundle",
    }
    table = facts_table()
    for name, value in rows.items():
        table.add_row(name, value)
    for note in check.notes:
        table.add_row("note", note)
    stdout().print(table, markup=False)


def _licence(check: "Check") -> str:
    if check.license is not None:
        return check.license
    return "in a file, without a name" if check.has_license_text else "none is given"


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 999.5e6 else f"{count / 1e6:.3g} MB"


def _time(seconds: int) -> str:
    """Return a duration in the unit that its precision deserves."""
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{max(1, seconds)} s"
