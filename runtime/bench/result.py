"""The measurements of a bench, and the numbers that are computed from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..errors import InvalidInputError
from ..machine import Machine
from .energy import total
from .power import Power

__all__ = ["BENCH_VERSION", "METRICS", "BenchResult", "Cell", "Metric", "Repeat", "Spread"]

BENCH_VERSION = 2
WIDEST = 9  # columns of a table, besides batch and depth


@dataclass(frozen=True)
class Repeat:
    """One generation for a whole batch, in seconds.

    Attributes:
        first_token_s: from the prompts' text to the first token of the last row: tokenizing,
            making the cache, prefill, sampling.
        tokenize_s: the part of `first_token_s` that turned text into ids; 0 without a tokenizer.
        prefill_engine_s: the part of `first_token_s` spent inside the engine.
        step_s: time of each later decoding step, which gives every row one token.
        engine_s: the part of each step spent inside the engine.
        text_s: the part of each step that turned ids into text; 0 without a tokenizer.
        device_s: time of the network in each step on a GPU, by its own clock; empty without one.
        joules: energy of a token, by rail, while decoding without a pause; empty without a meter.
    """

    first_token_s: float
    tokenize_s: float
    prefill_engine_s: float
    step_s: list[float]
    engine_s: list[float]
    text_s: list[float]
    device_s: list[float] = field(default_factory=list)
    joules: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.step_s), len(self.engine_s), len(self.text_s)}
        lengths |= {len(self.device_s)} if self.device_s else set()
        _require(len(lengths) == 1 and 0 not in lengths, "the lists of steps do not match")
        times = [self.first_token_s, *self.step_s, *self.device_s]
        _require(min(times) > 0, "a time is not above 0")


@dataclass(frozen=True)
class Cell:
    """All repeats with `batch` rows, each with a prompt of `depth` tokens."""

    batch: int
    depth: int
    repeats: list[Repeat]

    def __post_init__(self) -> None:
        _require(self.batch > 0 and self.depth > 0, "a batch or a depth is not above 0")
        _require(bool(self.repeats), "a cell has no repeats")

    @property
    def name(self) -> str:
        """The name of the cell in messages and plots."""
        return f"batch {self.batch}, depth {self.depth}"


@dataclass(frozen=True)
class BenchResult:
    """Everything that a bench measured, and what it measured it on.

    Attributes:
        date: UTC, ISO 8601.
        machine: the machine that ran the bench.
        versions: of edgegpt, the engine and numpy.
        threads: threads inside an operator, and of the reading of memory.
        bundle: the bundle's id.
        precision: of its weights.
        graph: name of the graph that ran.
        lowering: of that graph.
        engine: name and device of the engine.
        context: tokens that the cache held.
        tokens: decoding steps of a repeat, the first token not counted.
        sampling: its settings in words.
        prompts: what they were, in words.
        weight_bytes: bytes of weights that a decoding step must read, at any batch size.
        slot_bytes: bytes of the keys and values of one token of one row.
        load_s: seconds of each opening of the bundle. The first one includes importing the engine's
            library, and reading the disk if the system had not cached the files.
        bandwidths: bytes per second, measured before each round of repeats. If the processor
            computes, they are read by the threads; if a GPU computes, a copy within its memory
            reads and writes them.
        peak_memory: resident bytes of the whole process after loading and one run of each cell;
            None if the system does not tell. See `edgegpt.runtime.machine.peak_memory`.
        gpu: the GPU that computed, in words; None if the processor computed.
        gpu_memory: bytes of the GPU's memory that the model took; None without a GPU. See
            `Gpu.taken_memory`.
        energy: what `joules` measured, or why there are none, in words.
        cells: every batch and depth.
        power: the machine's mode, and its clocks right after the last step; None in the results of
            an edgegpt that did not record them.
        model: see `Bundle.name`; "" in the results of an edgegpt that did not record it.
    """

    date: str
    machine: Machine
    versions: dict[str, str]
    threads: int
    bundle: str
    precision: str
    graph: str
    lowering: str
    engine: str
    context: int
    tokens: int
    sampling: str
    prompts: str
    weight_bytes: int
    slot_bytes: int
    load_s: list[float]
    bandwidths: list[float]
    peak_memory: int | None
    gpu: str | None
    gpu_memory: int | None
    energy: str
    cells: list[Cell]
    power: Power | None = None
    model: str = ""

    def __post_init__(self) -> None:
        _require(bool(self.cells and self.load_s), "nothing was measured")
        _require(min(self.load_s) > 0, "a time is not above 0")
        counts = (self.threads, self.context, self.tokens, self.weight_bytes, self.slot_bytes)
        _require(min(counts) > 0, "a count is not above 0")
        repeats = [repeat for cell in self.cells for repeat in cell.repeats]
        measured = {(bool(repeat.device_s), tuple(repeat.joules)) for repeat in repeats}
        _require(len(measured) == 1, "not all repeats measured the same")
        least = min((total(repeat.joules) for repeat in repeats if repeat.joules), default=1.0)
        _require(least > 0, "an energy is not above 0")
        _require(min(self.bandwidths, default=0.0) > 0, "a bandwidth is not above 0")

    @property
    def name(self) -> str:
        """The model's name, or the beginning of the bundle's id."""
        return self.model or self.bundle[:12]

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the memory, the best of all readings."""
        return max(self.bandwidths)

    def bytes_per_step(self, cell: Cell) -> float:
        """Return the bytes that a decoding step of `cell` must read, on average over its steps.

        The first of n steps sees depth + 1 tokens, its own included. The last one sees depth + n.
        """
        seen = cell.depth + (self.tokens + 1) / 2
        return self.weight_bytes + cell.batch * seen * self.slot_bytes

    def floor_s(self, cell: Cell) -> float:
        """Return the seconds that memory needs for a step of `cell`, the least for any engine."""
        return self.bytes_per_step(cell) / self.bandwidth

    @property
    def metrics(self) -> "list[Metric]":
        """The measured ones of `METRICS`, and the energy of each rail if there are several."""
        repeat = self.cells[0].repeats[0]
        rails = list(repeat.joules) if len(repeat.joules) > 1 else []
        found = [metric for metric in METRICS if metric.is_measured(repeat)]
        return found + [_of_rail(name) for name in rails]

    @property
    def tables(self) -> "list[list[Metric]]":
        """`metrics` in tables that fit a page: those that every engine has, then the others."""
        found = self.metrics
        return [part for part in (found[:WIDEST], found[WIDEST:]) if part]

    def spread(self, cell: Cell, metric: "Metric") -> "Spread":
        """Return a metric over the cell's repeats."""
        return Spread.of([metric.value(self, cell, repeat) for repeat in cell.repeats])


def _require(condition: bool, otherwise: str) -> None:
    """Refuse numbers that cannot be computed with, which a damaged file may hold."""
    if not condition:
        raise InvalidInputError(otherwise)


class Spread(NamedTuple):
    """A number that was measured several times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return median, minimum and maximum of at least one value."""
        return cls(float(np.median(values)), min(values), max(values))

    def text(self, digits: int) -> tuple[str, str]:
        """Return the median, and the range as "low-high"."""
        return f"{self.median:,.{digits}f}", f"{self.low:,.{digits}f}-{self.high:,.{digits}f}"


@dataclass(frozen=True)
class Metric:
    """A column: its key in JSON, its heading with the unit, and its value for a repeat."""

    key: str
    heading: str
    digits: int
    value: Callable[[BenchResult, Cell, Repeat], float]
    is_measured: Callable[[Repeat], bool] = lambda _: True


def _percentile(percent: int) -> Callable[[BenchResult, Cell, Repeat], float]:
    def value(_: BenchResult, __: Cell, repeat: Repeat) -> float:
        return float(np.percentile(repeat.step_s, percent)) * 1e3

    return value


def _prefill_rate(_: BenchResult, cell: Cell, repeat: Repeat) -> float:
    return cell.batch * cell.depth / repeat.first_token_s


def _decode_rate(_: BenchResult, cell: Cell, repeat: Repeat) -> float:
    return cell.batch * len(repeat.step_s) / sum(repeat.step_s)


def _host(_: BenchResult, __: Cell, repeat: Repeat) -> float:
    """Return the median over the steps, because a mean would count interruptions by others."""
    computing = repeat.device_s or repeat.engine_s
    return float(np.median(np.subtract(repeat.step_s, computing))) * 1e6


def _device(_: BenchResult, __: Cell, repeat: Repeat) -> float:
    return float(np.median(repeat.device_s)) * 1e3


def _roofline(result: BenchResult, cell: Cell, repeat: Repeat) -> float:
    return 100 * result.floor_s(cell) * len(repeat.step_s) / sum(repeat.step_s)


def _device_roofline(result: BenchResult, cell: Cell, repeat: Repeat) -> float:
    return 100 * result.floor_s(cell) * len(repeat.device_s) / sum(repeat.device_s)


def _of_rail(name: str) -> "Metric":
    return Metric(f"token_mj_{name}", f"{name} mJ", 1, lambda _, __, r: r.joules[name] * 1e3)


def _has_device(repeat: Repeat) -> bool:
    return bool(repeat.device_s)


def _has_joules(repeat: Repeat) -> bool:
    return bool(repeat.joules)


METRICS = (
    Metric("first_token_ms", "first token ms", 1, lambda _, __, r: r.first_token_s * 1e3),
    Metric("prefill_tokens_per_s", "prefill tokens/s", 0, _prefill_rate),
    Metric("decode_tokens_per_s", "decode tokens/s", 0, _decode_rate),
    Metric("p50_ms", "p50 ms", 2, _percentile(50)),
    Metric("p90_ms", "p90 ms", 2, _percentile(90)),
    Metric("p99_ms", "p99 ms", 2, _percentile(99)),
    Metric("host_us", "host µs", 0, _host),
    Metric("text_us", "of it text", 0, lambda _, __, r: float(np.median(r.text_s)) * 1e6),
    Metric("roofline_percent", "roofline %", 1, _roofline),
    Metric("device_ms", "device ms", 3, _device, _has_device),
    Metric("device_roofline_percent", "device %", 1, _device_roofline, _has_device),
    Metric("token_mj", "mJ/token", 1, lambda _, __, r: total(r.joules) * 1e3, _has_joules),
)
