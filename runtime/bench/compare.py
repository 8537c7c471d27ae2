"""Compare two results: B / A for every cell that both have, and what else differs."""

from dataclasses import dataclass

from ..errors import InvalidInputError
from ..quantity import quantity
from .result import BenchResult, Metric, Spread

__all__ = ["Comparison", "Ratios", "compare"]

KEYS = (
    "first_token_ms",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "p50_ms",
    "p99_ms",
    "device_ms",
    "token_mj",
)
# If one of these facts differs, a ratio does not compare what it seems to.
FACTS = (
    "bundle",
    "precision",
    "lowering",
    "graph",
    "engine",
    "gpu",
    "threads",
    "context",
    "tokens",
    "sampling",
    "prompts",
    "energy",
)


@dataclass(frozen=True)
class Ratios:
    """One cell: B / A for some metrics.

    The median is the ratio of the medians. The rounds of two files were not run side by side, so
    the range is from B's minimum over A's maximum to B's maximum over A's minimum.
    """

    batch: int
    depth: int
    ratios: dict[str, Spread]


@dataclass(frozen=True)
class Comparison:
    """All cells that both files have, and one sentence for each fact that differs.

    `metrics` are the columns: the metrics that both files have measured.
    """

    cells: list[Ratios]
    notes: list[str]
    metrics: list[Metric]


def compare(a: BenchResult, b: BenchResult) -> Comparison:
    """Compare two results; refuse results that have no cell in common."""
    known = {metric.key for metric in b.metrics}
    metrics = [metric for metric in a.metrics if metric.key in KEYS and metric.key in known]
    others = {(cell.batch, cell.depth): cell for cell in b.cells}
    cells = []
    for cell in a.cells:
        other = others.pop((cell.batch, cell.depth), None)
        if other is not None:
            ratios = {
                metric.key: _ratio(a.spread(cell, metric), b.spread(other, metric))
                for metric in metrics
            }
            cells.append(Ratios(cell.batch, cell.depth, ratios))
    if not cells:
        raise InvalidInputError("the two files have no batch and depth in common")
    return Comparison(cells, _differences(a, b, len(cells)), metrics)


def _ratio(a: Spread, b: Spread) -> Spread:
    return Spread(b.median / a.median, b.low / a.high, b.high / a.low)


def _differences(a: BenchResult, b: BenchResult, shared: int) -> list[str]:
    pairs = [(name, getattr(a, name), getattr(b, name)) for name in FACTS]
    pairs += [
        (f"machine: {name}", value, getattr(b.machine, name))
        for name, value in vars(a.machine).items()
    ]
    for name in sorted({*a.versions, *b.versions}):
        pairs.append((f"version of {name}", a.versions.get(name), b.versions.get(name)))
    first, second = _settings(a), _settings(b)
    if first is not None and second is not None:
        pairs += [(name, first.get(name), second.get(name)) for name in {**first, **second}]
    notes = [f"{name} differs: A has {x}, B has {y}" for name, x, y in pairs if x != y]
    if (first is None) != (second is None):
        notes.append(f"the power mode is recorded in {'B' if first is None else 'A'} only")
    only = len(a.cells) + len(b.cells) - 2 * shared
    if only:
        notes.append(f"{quantity(only, 'cell is', 'cells are')} in one file only and not shown")
    return notes


def _settings(result: BenchResult) -> dict[str, str] | None:
    return None if result.power is None else result.power.settings()
