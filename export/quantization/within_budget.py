"""Quantise a model within a budget of KL divergence, or raise an error that says why not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from edgegpt.errors import ExportError, InvalidInputError
from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.manifest import Quality, Quantization
from edgegpt.runtime.bundle.vocabulary import BITS, FINER_BITS, Precision
from edgegpt.runtime.progress import Progress
from edgegpt.runtime.proof.quality import BUDGETS

from ..layered import LayeredModel
from ..settings import AUTO, ExportSettings
from .blocks import BlockQuantized, round_to_nearest, whole_rows
from .keep import Better, Ranking, layer_costs
from .quality import Measured, Yardstick, quantised
from .quantize import quantize, weight_names
from .smooth import smoothed

__all__ = ["Quantised", "quantize_within_budget"]

# int8 loses next to nothing by rounding. int4 loses a seventh as much with GPTQ as by rounding.
METHODS: dict[str, Literal["rtn", "gptq"]] = {"int8": "rtn", "int4": "gptq"}
BLOCKS = (128, 64, 32, 16)
SMOOTHING_TOKENS = 1024
# The held-out text that ranks the layers: so many windows, of at most so many tokens each.
RANKING_WINDOWS, RANKING_LENGTH = 4, 128
TRIES, SAFETY = 8, 0.95  # at most so many; each a little lower than the last one asks for
WORST = 5  # number of layers that an error names


@dataclass(frozen=True)
class Quantised:
    """A quantised model: weights in float32 and those of them that are integers, by name.

    The float32 weights are not the source's, but compute the same, see `smooth.py`. `by_row` is the
    quality with all layers but the head rounded in whole rows, as `passes.QuantizeActivations` does
    it; None: it was not asked for.
    """

    weights: Mapping[str, Tensor]
    integers: Mapping[str, BlockQuantized]
    entry: Quantization
    by_row: Quality | None


def quantize_within_budget(
    yardstick: Yardstick,
    selection: Any,
    precision: Precision,
    calibration: Any,
    settings: ExportSettings,
    progress: Progress,
) -> Quantised:
    """Quantise a model, as few of its weights as the budget needs with more bits or finer blocks.

    Args:
        yardstick: the model in float32, which stays as it is, on the held-out text that counts.
        selection: other held-out texts, int64 [N, T + 1] or pairs, on which those weights are
            chosen, so that the quality is not of the texts for which they were.
        precision: "int8" or "int4".
        calibration: other texts, which show what the layers read, int64 [M, T] or pairs.
        settings: the method, the budget and the layers to keep, see `ExportSettings`.
        progress: called with a message as each stage begins.

    Raises:
        ExportError: if the loss is over the budget; names the layers that cost most.
        InvalidInputError: for an impossible setting.
    """
    model, plan = yardstick.reference, _plan(yardstick.reference.model, precision, settings)
    max_kl = BUDGETS[precision] if settings.max_kl is None else settings.max_kl
    source = model
    if isinstance(model, LayeredModel):
        progress("evening out the channels", 0, 0)
        tokens = max(1, SMOOTHING_TOKENS // calibration.shape[1])
        source = model.with_weights(smoothed(model, calibration[:tokens]))
    integers = plan.quantize(source, calibration, progress)
    progress("measuring what quantisation costs", 0, 0)
    quality = yardstick.measure(quantised(source, integers))
    if not quality.kl <= max_kl:
        search = _Search(source, yardstick, selection, max_kl, progress)
        steps: list[Better] = []
        if plan.block is not None:
            steps.append(lambda name: _finer(source.weights[name], plan.finer_block))
        if settings.keep_fp32 == AUTO:
            steps.append(lambda name: None)
        integers, quality = search.improved(integers, quality, steps, precision)
    entry = Quantization(
        method=plan.method,
        bits=plan.bits,
        block=plan.block or _widest(model.model),
        finer=[name for name, each in integers.items() if plan.differs(each)],
        finer_block=plan.finer_block,
        kept=sorted(set(weight_names(model.model)) - integers.keys()),
        quality=quality,
        reference_perplexity=yardstick.measure(model).perplexity,
        max_kl=float(max_kl),
    )
    by_row = None
    if settings.fast_prefill is None and plan.block is not None:
        progress("measuring what faster prompts cost", 0, 0)
        by_row = yardstick.measure(quantised(source, _InWholeRows(model.model, integers)))
    return Quantised(source.weights, integers, entry, by_row)


@dataclass(frozen=True)
class _Plan:
    """How all weights are quantised at first, and in which blocks those that need it are then."""

    method: Literal["rtn", "gptq"]
    bits: int
    block: int | None  # None: each row is one
    finer_block: int
    kept: frozenset[str]

    def quantize(
        self, source: Measured, calibration: Any, progress: Progress
    ) -> dict[str, BlockQuantized]:
        """Return the integers of all weights but the kept ones."""
        blocks = "whole rows" if self.block is None else f"blocks of {self.block}"
        progress(f"quantising to int{self.bits} ({self.method}, {blocks})", 0, 0)
        return quantize(
            source,
            self.bits,
            block=self.block,
            method=self.method,
            calibration=calibration,
            keep=self.kept,
            progress=progress,
        )

    def differs(self, weight: BlockQuantized) -> bool:
        """Return whether a weight has another grid than all had at first."""
        return self.block is not None and (weight.bits, weight.block) != (self.bits, self.block)


def _plan(model: GPT | Seq2Seq, precision: Precision, settings: ExportSettings) -> _Plan:
    block, kept = (None, frozenset[str]()) if settings.target == "web" else _grid(model)
    if settings.keep_fp32 != AUTO:
        kept |= _matching(model, settings.keep_fp32 or ())
    finer_block = BLOCKS[-1] if precision == "int8" or block is None else block
    method = settings.method or METHODS[precision]
    return _Plan(method, BITS[precision], block, finer_block, kept)


@dataclass(frozen=True)
class _Search:
    """Replaces weights by better ones, step by step, until the loss is within the budget."""

    source: Measured
    yardstick: Yardstick
    selection: Any
    max_kl: float
    progress: Progress

    def improved(
        self,
        integers: dict[str, BlockQuantized],
        quality: Quality,
        steps: list[Better],
        precision: Precision,
    ) -> tuple[dict[str, BlockQuantized], Quality]:
        """Return weights and their quality, from those that are over the budget.

        Raises:
            ExportError: if the last step is not enough; names the layers that cost most.
        """
        trial, costs = Yardstick(self.yardstick.reference, self.selection), self._costs(integers)
        for better in steps:
            self.progress("choosing the layers that get more bits", 0, 0)
            ranking = Ranking(trial, self.source, integers, better, costs)
            integers, quality = self._within(ranking)
            if quality.kl <= self.max_kl:
                return integers, quality
            costs = self._costs(integers)
        raise ExportError(_past_budget(precision, quality.kl, self.max_kl, costs))

    def _costs(self, integers: dict[str, BlockQuantized]) -> dict[str, float]:
        """Return what each weight costs, the worst first."""
        self.progress("looking for the layers that cost most", 0, 0)
        ranked = self.source.some(self.selection, RANKING_WINDOWS, RANKING_LENGTH)
        return layer_costs(self.source, integers, ranked)

    def _within(self, ranking: Ranking) -> tuple[dict[str, BlockQuantized], Quality]:
        """Replace few weights, or all, if that is still not enough.

        What is enough for the text on which they are chosen may be too few for the one that
        counts. The next try aims as much lower.
        """
        aim, everything = self.max_kl, len(ranking.names)
        for _ in range(TRIES):
            count = ranking.fewest(aim)
            weights = ranking.weights(count)
            quality = self.yardstick.measure(quantised(self.source, weights))
            if quality.kl <= self.max_kl or count == everything:
                return weights, quality
            aim *= SAFETY * self.max_kl / quality.kl
        weights = ranking.weights(everything)
        return weights, self.yardstick.measure(quantised(self.source, weights))


class _InWholeRows(Mapping[str, BlockQuantized]):
    """Weights in whole rows, but for the head's; each is made when it is asked for."""

    def __init__(self, model: GPT | Seq2Seq, integers: Mapping[str, BlockQuantized]) -> None:
        self.head = weight_names(model)[-1]
        self.integers = integers

    def __getitem__(self, name: str) -> BlockQuantized:
        weight = self.integers[name]
        return weight if name == self.head else whole_rows(weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self.integers)

    def __len__(self) -> int:
        return len(self.integers)


def _widest(model: GPT | Seq2Seq) -> int:
    return max(model.get_parameter(name).shape[1] for name in weight_names(model))


def _finer(weight: Tensor, block: int) -> BlockQuantized:
    return round_to_nearest(weight, FINER_BITS, block)


def _grid(model: GPT | Seq2Seq) -> tuple[int, frozenset[str]]:
    """Return the widest block that divides all rows evenly, and weights to leave in float32.

    Wider blocks have fewer scales to read. If no block divides all rows, the narrowest one is
    used. A tied table is then left in float32 if its rows end within a block, because a lookup
    reads full blocks only.
    """
    widths = {model.get_parameter(name).shape[1] for name in weight_names(model)}
    for block in BLOCKS:
        if all(width % block == 0 for width in widths):
            return block, frozenset()
    tied, name = model.tied_names(), weight_names(model)[-1]
    odd = name in tied.values() and model.get_parameter(name).shape[1] % BLOCKS[-1]
    return BLOCKS[-1], frozenset([name] if odd else [])


def _matching(model: GPT | Seq2Seq, patterns: tuple[str, ...]) -> frozenset[str]:
    """Return the weights whose names match a pattern: in full, or as a prefix up to a dot."""
    found: set[str] = set()
    for pattern in patterns:
        names = [name for name in weight_names(model) if f"{name}.".startswith(f"{pattern}.")]
        if not names:
            raise InvalidInputError(
                f"the model has no layer {pattern!r} to keep in float32; its layers are named "
                f"like {', '.join(weight_names(model)[:3])}"
            )
        found |= set(names)
    return frozenset(found)


def _past_budget(precision: Precision, kl: float, max_kl: float, costs: dict[str, float]) -> str:
    worst = ", ".join(f"{name} ({cost:.1e})" for name, cost in list(costs.items())[:WORST])
    return (
        f"{precision} moves the model too far from float32: the mean KL on held-out text is "
        f"{kl:.2e}, the budget {max_kl:.2e}, although all layers have 8 bits. The layers that cost "
        f"most: {worst}. Keep some in float32 (--keep-fp32 LAYERS, or auto for as few as needed), "
        f"or allow more with --max-kl. Nothing was written."
    )
