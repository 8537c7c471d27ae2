"""Measure how fast a bundle runs on this machine, and how near that is to the memory's limit."""

from .compare import Comparison, compare
from .measure import measure
from .page import write_page
from .plan import Plan
from .result import BENCH_VERSION, BenchResult, Cell, Repeat, Spread
from .storage import read_result, to_json, write_result

__all__ = [
    "BENCH_VERSION",
    "BenchResult",
    "Cell",
    "Comparison",
    "Plan",
    "Repeat",
    "Spread",
    "compare",
    "measure",
    "read_result",
    "to_json",
    "write_page",
    "write_result",
]
