"""A receipt as one self-contained HTML page, with the error by position drawn as SVG.

The plot has a logarithmic axis and a line per check. The SVG is written by hand, because a device
has no plotting library.
"""

import math
from html import escape
from pathlib import Path

from ..errors import InvalidInputError
from ..files import write_file
from ..pages import COLOURS, STYLE
from .receipt import COLUMNS, MEANING, VERDICTS, Check, Receipt, verdict

__all__ = ["render_html", "write_html"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 360, 70, 40, 16, 150
SMALLEST = 1e-9  # smallest error of the plot; smaller errors are drawn here


def write_html(receipt: Receipt, path: Path) -> None:
    """Write the page to `path`, atomically."""
    try:
        write_file(path, render_html(receipt).encode())
    except OSError as error:
        raise InvalidInputError(f"cannot write the report {path}: {error.strerror}") from error


def render_html(receipt: Receipt) -> str:
    """Return the page."""
    result = VERDICTS[receipt.outcome]
    facts = {
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
    header = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>edgegpt receipt: {result}</title><style>{STYLE}</style></head><body>"
        f'<h1>Receipt: <span class="{result}">{result}</span></h1><dl>{items}</dl>'
        f"<table><thead><tr>{header}</tr></thead><tbody>"
        + "".join(_row(check) for check in receipt.checks)
        + f"</tbody></table><p>{MEANING}</p><h2>Error by position</h2>"
        "<p>Largest difference between the engine's logits and PyTorch's at each position of the "
        "text, relative to the largest logit. The dashed line is the tolerance.</p>"
        + _plot([check for check in receipt.checks if check.by_position])
        + "</body></html>\n"
    )


def _row(check: Check) -> str:
    *cells, result = check.cells()
    body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr>{body}<td class="{result}">{result}</td></tr>'


def _plot(checks: list[Check]) -> str:
    """Return the plot as SVG; the vertical axis spans the decades that occur."""
    finite = [e for check in checks for _, e in check.by_position if math.isfinite(e)]
    low = math.floor(math.log10(max(min(finite, default=SMALLEST), SMALLEST)))
    top = max([*finite, *(check.tolerance for check in checks), SMALLEST])
    high = max(math.ceil(math.log10(top)), low + 1)
    length = 1 + max((check.by_position[-1][0] for check in checks), default=0)
    parts = [_axes(low, high, length)]
    for index, check in enumerate(checks):
        colour = COLOURS[index % len(COLOURS)]
        dashes = ' stroke-dasharray="2 3"' * (index >= len(COLOURS))  # of another graph
        points = [
            f"{_x(position, length):.1f},{_y(error, low, high):.1f}"
            for position, error in check.by_position
            if error > 0
        ]
        row = TOP + 16 * (index + 1)
        parts.append(
            f'<polyline fill="none" stroke="{colour}"{dashes} points="{" ".join(points)}"/>'
            f'<text x="{WIDTH - RIGHT + 12}" y="{row}" style="fill:{colour}">'
            f"{escape(check.name)}</text>"
        )
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
