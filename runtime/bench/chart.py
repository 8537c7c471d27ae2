"""Two small charts as SVG text: lines with ranges, and rows of dots. Axes begin at 0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..pages import COLOURS
from .result import Spread

__all__ = ["Line", "dot_chart", "line_chart"]

WIDTH, RIGHT, TOP, BOTTOM = 860, 130, 16, 46
LINE_HEIGHT, LINE_LEFT = 320, 80
ROW, DOT_LEFT = 24, 150
TICKS = 5  # approximate number of ticks on an axis of values
NARROWEST = 44  # pixels between the labels of two places on a horizontal axis


@dataclass(frozen=True)
class Line:
    """A line: its name in the legend, and (x, spread of y) from left to right."""

    name: str
    points: list[tuple[int, Spread]]


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Draw medians as dots on a line, and ranges as bars, with a label at each x that has room."""
    places = sorted({x for line in lines for x, _ in line.points})
    high = max(spread.high for line in lines for _, spread in line.points)
    ticks = _ticks(high)
    bottom = LINE_HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LINE_LEFT + (WIDTH - RIGHT - LINE_LEFT) * x / places[-1]

    def up(y: float) -> float:
        return bottom - (bottom - TOP) * y / ticks[-1]

    parts = [
        f'<line x1="{LINE_LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}" '
        f'stroke="#e3e7ea"/>' + _text(LINE_LEFT - 8, up(y) + 4, f"{y:,g}", "end")
        for y in ticks
    ]
    shown = -math.inf
    for x in places:
        if across(x) - shown >= NARROWEST:
            shown = across(x)
            parts.append(_text(shown, bottom + 18, f"{x:,}", "middle"))
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y.median):.1f}" for x, y in line.points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        for x, y in line.points:
            parts.append(_range(across(x), up(y.low), up(y.high), colour))
            parts.append(_dot(across(x), up(y.median), colour))
        parts.append(_legend(index, line.name, colour))
    parts.append(_text((LINE_LEFT + WIDTH - RIGHT) / 2, LINE_HEIGHT - 6, x_label, "middle"))
    return _svg(LINE_HEIGHT, parts, y_label)


def dot_chart(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], x_label: str
) -> str:
    """Draw a row of dots for each entry of `rows`: its label, and one value for each of `names`."""
    bottom = TOP + ROW * len(rows)
    ticks = _ticks(max(max(values) for _, values in rows))

    def across(x: float) -> float:
        return DOT_LEFT + (WIDTH - RIGHT - DOT_LEFT) * x / ticks[-1]

    parts = [
        f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{bottom}" '
        f'stroke="#e3e7ea"/>' + _text(across(x), bottom + 18, f"{x:,g}", "middle")
        for x in ticks
    ]
    for row, (label, values) in enumerate(rows):
        y = TOP + ROW * (row + 0.5)
        parts.append(_text(DOT_LEFT - 10, y + 4, label, "end"))
        parts.append(
            f'<line x1="{across(min(values)):.1f}" x2="{across(max(values)):.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}" stroke="#b4bcc4" stroke-width="2"/>'
        )
        parts += [
            _dot(across(value), y, COLOURS[index % len(COLOURS)])
            for index, value in enumerate(values)
        ]
    parts += [_legend(index, name, COLOURS[index]) for index, name in enumerate(names)]
    parts.append(_text((DOT_LEFT + WIDTH - RIGHT) / 2, bottom + BOTTOM - 6, x_label, "middle"))
    return _svg(bottom + BOTTOM, parts, x_label)


def _ticks(high: float) -> list[float]:
    """Return 0 and multiples of 1, 2 or 5 times a power of ten, the last one at least `high`."""
    raw = high / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    count = math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.6g}") for index in range(count + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _range(x: float, low: float, high: float, colour: str) -> str:
    return (
        f'<path fill="none" stroke="{colour}" d="M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8'
        f'M{x:.1f} {low:.1f}V{high:.1f}"/>'
    )


def _legend(index: int, name: str, colour: str) -> str:
    x, y = WIDTH - RIGHT + 20, TOP + 16 * (index + 1)
    label = f'<text x="{x + 10}" y="{y}" style="fill:{colour}">{escape(name)}</text>'
    return _dot(x, y - 4, colour) + label


def _svg(height: int, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" width="100%" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
