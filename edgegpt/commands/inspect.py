"""`edgegpt inspect`: what is inside a bundle."""

import json
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import facts_table, stdout, titled_table
from .fitting import print_table
from .given_path import PATH
from .size_table import print_sizes

if TYPE_CHECKING:
    from rich.console import Console

    from edgegpt.runtime.bundle.manifest import Manifest, Port

__all__ = ["command"]

TABLES = ("rotary_cos", "rotary_sin")  # of weights: computed, not trained
BRIEF = 4  # entries of a list that are shown


@click.command(help="Show what is inside a bundle, and the memory that it needs.")
@click.argument("bundle", type=PATH)
@click.option("--batch", type=int, default=1, show_default=True, help="rows of the memory estimate")
@click.option("--context", type=int, help="tokens of a row; default: the block size")
@click.option("--json", "as_json", is_flag=True, help="print everything as JSON")
def command(bundle: Path, batch: int, context: int | None, as_json: bool) -> None:
    """Print the manifest's content, the sizes, the memory needed, and the known receipts."""
    from edgegpt.runtime.bundle.bundle import TEMPLATE_NAME, Bundle
    from edgegpt.runtime.bundle.sizes import shares
    from edgegpt.runtime.engines.memory import memory_needed
    from edgegpt.runtime.engines.native.obstacle import obstacle
    from edgegpt.runtime.proof.receipt_store import known

    opened = Bundle.open(bundle)
    manifest, memory = opened.manifest, memory_needed(opened, batch, context)
    on_cpu = memory_needed(opened, batch, context, "cpu")
    halved = memory_needed(opened, batch, context, "native", half_cache=True)
    facts: dict[str, Any] = {
        "id": manifest.id,
        "precision": manifest.precision,
        "source": manifest.source and asdict(manifest.source),
        "usage": manifest.usage and asdict(manifest.usage),
        "chat_template": opened.has(TEMPLATE_NAME),
        "model": manifest.model,
        "parameters": _parameters(manifest),
        "kept": manifest.kept,
        "quantization": manifest.quantization and asdict(manifest.quantization),
        "graphs": [asdict(graph) for graph in manifest.graphs],
        "files": {name: entry.size for name, entry in manifest.files.items()},
        "sizes": [share._asdict() for share in shares(opened)],
        "memory": {
            "batch": batch,
            "context": context or manifest.model_info.block_size,
            **asdict(memory),
            "total": memory.total,
            "total_on_cpu": on_cpu.total,
            "half_cache": None if obstacle(manifest) else halved.cache,
        },
        "versions": manifest.versions,
        "receipts": [asdict(receipt) for receipt in known(opened)],
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    console = stdout()
    _print_facts(console, facts)
    print_sizes(opened)
    for graph in manifest.graphs:
        _print_ports(console, f"{graph.name} (opset {graph.opset})", graph.inputs, graph.outputs)
    _print_receipts(console, facts["receipts"])


def _parameters(manifest: "Manifest") -> int:
    """Return how many weights the model has: two of 4 bits share a byte, and padding counts."""
    quantization, total = manifest.quantization, 0
    for name, entry in manifest.weights.items():
        if not name.endswith((".scales", ".columns", ".column_scales")) and not name.startswith(
            TABLES
        ):
            count = _count(entry.shape)
            if quantization is not None and f"{name}.scales" in manifest.weights:
                count *= 8 // quantization.bits_of(name)
            total += count
    return total


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _print_facts(console: "Console", facts: dict[str, Any]) -> None:
    memory = facts["memory"]
    wide = f"; {memory['total_on_cpu'] / 1e6:.1f} MB on a CPU, in float32"
    settings = ", ".join(f"{name} {_brief(value)}" for name, value in facts["model"].items())
    rows = {
        "id": facts["id"],
        "precision": facts["precision"] + _kept(facts),
        "parameters": f"{facts['parameters']:,}",
        "source": _origin(facts["source"]),
        "prompts": _prompts(facts["usage"], facts["chat_template"]),
        **_sources(facts["usage"]),
        "sampling": _sampling(facts["usage"]),
        **_search(facts["usage"]),
        "model": settings,
        "memory": (
            f"{memory['total'] / 1e6:.1f} MB for batch {memory['batch']} and context "
            f"{memory['context']}: weights {memory['weights'] / 1e6:.1f}, cache "
            f"{memory['cache'] / 1e6:.1f}{_halved(memory)}, workspace up to "
            f"{memory['workspace'] / 1e6:.1f}"
            + (f", sources {memory['sources'] / 1e6:.1f}" if memory["sources"] else "")
            + (wide if memory["total_on_cpu"] != memory["total"] else "")
        ),
        "quantised": _loss(facts["quantization"]),
        "made with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    table = facts_table()
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, markup=False)


def _halved(memory: dict[str, Any]) -> str:
    """Return what `--cache float16` saves, where an engine takes it and it does."""
    half = memory["half_cache"]
    if half is None or half >= memory["cache"]:
        return ""
    return f" ({half / 1e6:.1f} with --backend native --cache float16)"


def _origin(source: dict[str, Any] | None) -> str:
    if source is None:
        return "unknown"
    name = f"{source['name']}, " if source["name"] else ""
    return f"{name}family {source['family']}, licence: {source['license'] or 'not named'}"


def _prompts(usage: dict[str, Any] | None, has_template: bool) -> str:
    ids = [
        f"{what} {', '.join(map(str, usage[key]))}"
        for what, key in (("begin with", "start_ids"), ("end at", "end_ids"))
        if usage and usage[key]
    ]
    return ", ".join([*ids, "with a chat template" if has_template else "no chat template"])


def _sources(usage: dict[str, Any] | None) -> dict[str, str]:
    """Return a row on the sources of an encoder-decoder."""
    source = usage["source"] if usage else None
    if source is None:
        return {}
    ids = [
        f"{what} {', '.join(map(str, source[key]))}"
        for what, key in (("begin with", "prefix_ids"), ("end with", "suffix_ids"))
        if source[key]
    ]
    codes = sorted(source["languages"])
    known = f"languages {_some(codes)}" if codes else "no codes of languages"
    return {"sources": ", ".join([*ids, known])}


def _search(usage: dict[str, Any] | None) -> dict[str, str]:
    """Return a row on the recommended search, if there is one."""
    settings = usage["search"] if usage else {}
    told = [
        f"{name} {_brief(value)}" for name, value in settings.items() if value not in (None, ())
    ]
    return {"search": ", ".join(told)} if told else {}


def _sampling(usage: dict[str, Any] | None) -> str:
    settings = usage["sampling"] if usage else {}
    told = [f"{name} {value:g}" for name, value in settings.items() if value is not None]
    return ", ".join(told) or "the most likely token"


def _brief(value: Any) -> str:
    """Return a setting in a few words; a list of many entries as their number."""
    if isinstance(value, list | tuple) and len(value) > BRIEF:
        return f"({len(value)} entries)"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_brief, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} {_brief(part)}' for name, part in value.items())}}}"
    return str(value)


def _kept(facts: dict[str, Any]) -> str:
    where = " for CUDA" if facts["quantization"] else ""
    return f", {', '.join(facts['kept'])} kept in float32{where}" if facts["kept"] else ""


def _loss(quantization: dict[str, Any] | None) -> str:
    if quantization is None:
        return "no"
    quality, kept = quantization["quality"], quantization["kept"]
    finer = quantization["finer"]
    return (
        f"{quantization['method']}, blocks of {quantization['block']}, "
        + (
            f"{_some(finer)} in 8 bits and blocks of {quantization['finer_block']}, "
            if finer
            else ""
        )
        + f"{_some(kept) or 'nothing'} kept in float32; "
        f"on {quality['tokens']:,} held-out tokens: KL {quality['kl']:.1e} (budget "
        f"{quantization['max_kl']:.1e}), same top-1 "
        f"{quality['top1_agreement']:.2%}, perplexity {quality['perplexity']:.4g} (float32 "
        f"{quantization['reference_perplexity']:.4g})"
    )


def _some(names: list[str]) -> str:
    """Name a few; --json names all."""
    rest = len(names) - BRIEF
    return ", ".join(names[:BRIEF]) + (f" and {rest} more" if rest > 0 else "")


def _print_ports(
    console: "Console", title: str, inputs: "list[Port]", outputs: "list[Port]"
) -> None:
    table = titled_table(title)
    for name in ("", "name", "role", "dtype", "shape"):
        table.add_column(name)
    for kind, ports in (("input", inputs), ("output", outputs)):
        for role, alike in groupby(ports, key=lambda port: port.role):
            first, *others = alike
            shape = "[" + ", ".join(map(str, first.shape)) + "]"
            name = first.name
            if others:  # one of each layer
                name = f"{name} ... {others[-1].name} ({1 + len(others)})"
            table.add_row(kind, name, role, first.dtype, shape)
    console.print(table, markup=False)


def _print_receipts(console: "Console", receipts: list[dict[str, Any]]) -> None:
    from edgegpt.runtime.proof.receipt import VERDICTS

    table = titled_table("Receipts")
    for name in ("result", "engine", "device", "graph", "machine", "date"):
        table.add_column(name)
    for receipt in receipts:
        table.add_row(
            VERDICTS[receipt["outcome"]],
            f"{receipt['engine']} {receipt['engine_version']}",
            receipt["device"],
            receipt["graph"],
            receipt["machine"],
            receipt["date"],
        )
    print_table(console, table, ("date", "machine", "device"))
