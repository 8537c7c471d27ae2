"""`edgegpt bench`: how fast is this bundle on this machine, and how near to the memory's limit?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from edgegpt import __version__

from .console import facts_table, progress, stdout, tell_choice, titled_table
from .engine_options import engine_options
from .fitting import print_table
from .given_path import PATH, GivenPath
from .outputs import check_writable, tell_written

if TYPE_CHECKING:
    from rich.table import Table

    from edgegpt.runtime.bench import BenchResult, Plan
    from edgegpt.runtime.bench.result import Metric
    from edgegpt.runtime.engines.options import EngineOptions

__all__ = ["command"]

OUTPUT = GivenPath(path_type=Path, dir_okay=False)


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    """Read whole numbers of at least 1, separated by commas."""
    if value is None:
        return None
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,4") from None
    if min(numbers) < 1:
        raise click.BadParameter(f"{min(numbers)} is below 1")
    return numbers


@click.command(
    help="Measure how fast a bundle runs here: load, first token, decoding, memory; or compare two "
    "results of earlier runs."
)
@click.argument("bundle", type=PATH, required=False)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), help="decoded in each repeat; default: 64")
@click.option(
    "--depths", callback=_numbers, metavar="N,N,...", help="prompt lengths; default: a spread"
)
@click.option(
    "--batches",
    callback=_numbers,
    metavar="N,N,...",
    default="1,4",
    show_default=True,
    help="numbers of rows",
)
@click.option("--context", type=int, help="tokens the model sees; default: its block size")
@engine_options
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: most likely")
@click.option("--top-k", type=int, help="sample among the k most likely")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="nucleus sampling")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@click.option("--out", type=OUTPUT, help="write the result as JSON, for --compare")
@click.option("--html", type=OUTPUT, help="write a page with plots")
@click.option(
    "--compare",
    type=(PATH, PATH),
    metavar="A.json B.json",
    help="print B / A of two results; takes no BUNDLE",
)
def command(
    bundle: Path | None,
    repeats: int,
    tokens: int | None,
    depths: list[int] | None,
    batches: list[int],
    context: int | None,
    engine: "EngineOptions",
    temperature: float,
    top_k: int | None,
    top_p: float,
    as_json: bool,
    out: Path | None,
    html: Path | None,
    compare: tuple[Path, Path] | None,
) -> None:
    """Measure, or compare."""
    if (bundle is None) == (compare is None):
        raise click.UsageError("give either BUNDLE or --compare A.json B.json")
    if compare is not None:
        if out is not None or html is not None:
            raise click.UsageError("--compare prints only; it takes neither --out nor --html")
        _compare(*compare, as_json)
        return
    if out is not None and out == html:
        raise click.UsageError("--out and --html name the same file")
    from edgegpt.runtime.bench import Plan
    from edgegpt.runtime.generation.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p)
    plan = Plan(
        repeats=repeats,
        tokens=tokens,
        depths=depths,
        batches=batches,
        context=context,
        sampling=sampling,
        engine=engine,
    )
    assert bundle is not None
    _measure(bundle, plan, as_json, out, html)


def _measure(
    bundle: Path, plan: "Plan", as_json: bool, out: Path | None, html: Path | None
) -> None:
    from edgegpt.runtime.bench import measure, to_json, write_page, write_result

    check_writable(out, html)
    with progress() as report:
        result = measure(bundle, plan, __version__, report)
    if out is not None:
        write_result(result, out)
    if html is not None:
        write_page(result, html)
    if as_json:
        click.echo(to_json(result), nl=False)
    else:
        _print_result(result)
        _tell_of_native(bundle, plan.engine, result)
    tell_written(out, html)


def _tell_of_native(path: Path, engine: "EngineOptions", result: "BenchResult") -> None:
    """Tell what "auto" was; after ONNX Runtime on a CPU, what command may make it faster."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.engines.native.choice import worth_building
    from edgegpt.runtime.proof.auto import settle

    bundle = Bundle.open(path)
    tell_choice(settle(bundle, engine))
    if result.gpu is None and result.engine.startswith("onnxruntime"):
        command = worth_building(bundle)
        if command is not None:
            stdout().print(f"build an engine for this processor: {command}")


def _print_result(result: "BenchResult") -> None:
    """Print the facts, and a row for each batch and depth: medians, and ranges below them."""
    from edgegpt.runtime.bench.words import explanation, facts

    console, about = stdout(), facts_table()
    for name, value in facts(result).items():
        about.add_row(name, escape(value))
    console.print(about)
    for metrics in result.tables:
        print_table(console, _table(result, metrics))
    below = f"Median over the repeats; below it, the range. {explanation(result)}"
    console.print(below, markup=False)


def _table(result: "BenchResult", metrics: "list[Metric]") -> "Table":
    table = titled_table()
    for heading in ("batch", "depth", *(metric.heading for metric in metrics)):
        table.add_column(heading, justify="right", overflow="fold")
    for cell in result.cells:
        spreads = (result.spread(cell, metric).text(metric.digits) for metric in metrics)
        cells = (f"{median}\n[dim]{range_}[/]" for median, range_ in spreads)
        table.add_row(str(cell.batch), str(cell.depth), *cells)
    return table


def _compare(a: Path, b: Path, as_json: bool) -> None:
    from edgegpt.runtime.bench import compare, read_result

    comparison = compare(read_result(a), read_result(b))
    if as_json:
        body = {"cells": [asdict(cell) for cell in comparison.cells], "notes": comparison.notes}
        click.echo(json.dumps(body, indent=1))
        return
    console = stdout()
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False)
    table = titled_table(f"{b} / {a}")
    for heading in ("batch", "depth", *(metric.heading for metric in comparison.metrics)):
        table.add_column(heading.removesuffix(" ms"), justify="right")
    for cell in comparison.cells:
        spreads = [cell.ratios[metric.key].text(2) for metric in comparison.metrics]
        ratios = [f"{median} ({range_})" for median, range_ in spreads]
        table.add_row(str(cell.batch), str(cell.depth), *ratios)
    print_table(console, table)
    console.print(
        "Ratios of the medians: B is faster where those of tokens/s are above 1 and those of times "
        "below 1. In brackets: from B's least over A's most to B's most over A's least."
    )
