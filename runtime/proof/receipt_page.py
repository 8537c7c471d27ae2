"""A receipt as one self-contained HTML page, with the error by position drawn as SVG.

The plot has a logarithmic axis and a line per check. The SVG is written by hand, because a device
has no plotting library.
"""

import math
from html import escape
from pathlib import Path

from ..errors import InvalidInputError
from ..files import write_file
from ..pages import COLOURS, document, wide
from .receipt import COLUMNS, MEANING, VERDICTS, Check, Receipt, verdict

__all__ = ["render_html", "write_html"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 360, 70, 40, 16, 16
SMALLEST = 1e-9  # smallest error of the plot; smaller errors are drawn here
# Of the graph that a check begins with.
DASHES = {"": "", "standard": "7 3", "legacy": "2 3", "exact": "9 3 2 3", "half": "5 2"}
PLOTTED = (
    "<h2>Error by position</h2>"
    "<p>Largest difference between the engine's logits and PyTorch's at each position of the "
    "text, relative to the largest logit. Dashed black lines are what is allowed.</p>"
)


def write_html(receipt: Receipt, name: str, path: Path) -> None:
    """Write the page to `path`, atomically; `name` is the model's."""
    try:
        page = render_html(receipt, name).encode(errors="surrogateescape")  # it may name a path
        write_file(path, page)
    except OSError as error:
        raise InvalidInputError(f"cannot write the report {path}: {error.strerror}") from error


def render_html(receipt: Receipt, name: str) -> str:
    """Return the page."""
    result = VERDICTS[receipt.outcome]
    facts = {
        "model": name,
        "bundle": receipt.bundle_id,
        "graph": f"{receipt.graph} ({receipt.lowering}, {receipt.precision})",
        "engine": receipt.pending
        or f"{receipt.engine} {receipt.engine_version} on {receipt.device}",
        "machine": receipt.machine,
        "date": receipt.date,
    }
    if receipt.quality is not None:
        facts["quality"] = f"{verdict(receipt.quality.passed)} {receipt.quality.sentence()}"
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    heading = f'<h1>{escape(name)}: <span class="{result}">{result}</span></h1><dl>{items}</dl>'
    return document(f"edgegpt receipt of {name}: {result}", heading + _checks(receipt.checks))


def _checks(checks: list[Check]) -> str:
    """Return the table of the checks and the plot of their errors, or that there was none."""
    if not checks:
        return "<p>No check was made.</p>"
    header = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = "".join(_row(check) for check in checks)
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    drawn = [check for check in checks if check.by_position]
    plot = PLOTTED + wide(_plot(drawn)) + _legend(drawn) if drawn else ""
    return f"{wide(table)}<p>{MEANING}</p>{plot}"


def _row(check: Check) -> str:
    *cells, result = check.cells()
    body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr>{body}<td class="{result}">{result}</td></tr>'


def _strokes(checks: list[Check]) -> list[str]:
    """Return how each check is drawn: its kind has a colour, and its graph has dashes."""
    split = [_split(check.name) for check in checks]
    kinds = list(dict.fromkeys(kind for _, kind in split))
    return [
        f'stroke="{COLOURS[kinds.index(kind) % len(COLOURS)]}" stroke-width="1.5" '
        f'stroke-dasharray="{DASHES[graph]}"'
        for graph, kind in split
    ]


def _split(name: str) -> tuple[str, str]:
    """Return the graph that a check's name begins with, "" for the one that generates; the rest."""
    graph, _, kind = name.partition(" ")
    return (graph, kind) if kind and graph in DASHES else ("", name)


def _legend(checks: list[Check]) -> str:
    """Return how the checks are drawn; it has as many lines as it needs."""
    items = "".join(
        f'<li><svg viewBox="0 0 32 12" aria-hidden="true"><path d="M0 6h32" fill="none" {stroke}/>'
        f"</svg>{escape(check.name)}</li>"
        for check, stroke in zip(checks, _strokes(checks), strict=True)
    )
    return f'<ul class="legend">{items}</ul>'


def _plot(checks: list[Check]) -> str:
    """Return the plot as SVG; the vertical axis spans the decades that occur."""
    finite = [e for check in checks for _, e in check.by_position if math.isfinite(e)]
    low = math.floor(math.log10(max(min(finite, default=SMALLEST), SMALLEST)))
    top = max([*finite, *(check.tolerance for check in checks), SMALLEST])
    high = max(math.ceil(math.log10(top)), low + 1)
    length = 1 + max(check.by_position[-1][0] for check in checks)
    parts = [_axes(low, high, length)]
    for check, stroke in zip(checks, _strokes(checks), strict=True):
        points = [
            f"{_x(position, length):.1f},{_y(error, low, high):.1f}"
            for position, error in check.by_position
            if error > 0
        ]
        parts.append(f'<polyline fill="none" {stroke} points="{" ".join(points)}"/>')
    for tolerance in {check.tolerance for check in checks}:
        y = _y(tolerance, low, high)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#333" '
            f'stroke-dasharray="6 4"/>'
        )
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="100%">{body}</svg>'


def _axes(low: int, high: int, length: int) -> str:
    parts = []
    for power in range(low, high + 1):
        y = _y(10.0**power, low, high)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e7ea"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>'
        )
    for position in sorted({0, length // 4, length // 2, 3 * length // 4, length - 1}):
        x = _x(position, length)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{position}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">position</text>')
    return "".join(parts)


def _x(position: int, length: int) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * position / max(length - 1, 1)


def _y(error: float, low: int, high: int) -> float:
    """Return the y of an error; an error that is infinite or off the scale is drawn at the edge."""
    power = math.log10(max(error, SMALLEST)) if math.isfinite(error) else high
    share = (min(max(power, low), high) - low) / (high - low)
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share
