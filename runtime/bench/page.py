"""A bench's result as one self-contained HTML page with plots."""

from html import escape
from pathlib import Path

from ..errors import InvalidInputError
from ..files import write_file
from ..pages import document, wide
from .chart import Line, dot_chart, line_chart
from .result import METRICS, BenchResult, Metric
from .words import explanation, facts

__all__ = ["render_page", "write_page"]

OWN_STYLE = (
    "td small { display: block; color: #5b6570; white-space: nowrap; } th { font-size: 90%; }"
)
PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")


def write_page(result: BenchResult, path: Path) -> None:
    """Write the page to `path`, atomically."""
    try:
        page = render_page(result).encode(errors="surrogateescape")  # it may name a path
        write_file(path, page)
    except OSError as error:
        raise InvalidInputError(f"cannot write the page {path}: {error.strerror}") from error


def render_page(result: BenchResult) -> str:
    """Return the page."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts(result).items()
    )
    tables = "".join(_table(result, metrics) for metrics in result.tables)
    latency = [
        (cell.name, [result.spread(cell, _metric(key)).median for key in PERCENTILES])
        for cell in result.cells
    ]
    body = (
        f"<h1>Bench of {escape(result.name)}</h1><dl>{items}</dl>"
        f"{tables}<p>{escape(explanation(result))}</p>"
        "<h2>Decoding: tokens per second, all rows together</h2>"
        + wide(
            line_chart(_by_depth(result, "decode_tokens_per_s"), "tokens of the prompt", "tokens/s")
        )
        + "<h2>Time per output token: percentiles</h2>"
        + wide(dot_chart(latency, ["p50", "p90", "p99"], "milliseconds"))
        + "<h2>Share of the roofline, in percent</h2>"
        + wide(line_chart(_by_depth(result, "roofline_percent"), "tokens of the prompt", "percent"))
        + "<p>Dots are medians over the repeats, bars reach from the least to the most.</p>"
    )
    return document(f"edgegpt bench of {result.name}", body, OWN_STYLE)


def _table(result: BenchResult, metrics: list[Metric]) -> str:
    headings = ("batch", "depth", *(metric.heading for metric in metrics))
    header = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = ""
    for cell in result.cells:
        body += f"<tr><td>{cell.batch}</td><td>{cell.depth}</td>"
        for metric in metrics:
            median, range_ = result.spread(cell, metric).text(metric.digits)
            body += f"<td>{median}<small>{range_}</small></td>"
        body += "</tr>"
    return wide(f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>")


def _by_depth(result: BenchResult, key: str) -> list[Line]:
    """Return one line of a metric over the depth for each batch."""
    metric = _metric(key)
    return [
        Line(
            f"batch {batch}",
            [(c.depth, result.spread(c, metric)) for c in result.cells if c.batch == batch],
        )
        for batch in sorted({cell.batch for cell in result.cells})
    ]


def _metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)
