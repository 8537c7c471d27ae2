"""Quantise a model within a budget of KL divergence, or raise an error that says why not."""

from typing import Literal

from torch import Tensor

from edgegpt.errors import ExportError, InvalidInputError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.derived_weights import BITS
from edgegpt.runtime.bundle.manifest import Quantization
from edgegpt.runtime.bundle.vocabulary import Precision
from edgegpt.runtime.progress import Progress
from edgegpt.runtime.proof.quality import BUDGETS

from ..layered import LayeredModel
from ..settings import AUTO, ExportSettings
from .blocks import BlockQuantized
from .keep import keep_enough, layer_costs
from .quality import Yardstick, with_weights
from .quantize import quantize, weight_names

__all__ = ["method_of", "quantize_within_budget"]

# int8 loses next to nothing by rounding. int4 loses a seventh as much with GPTQ as by rounding.
METHODS: dict[str, Literal["rtn", "gptq"]] = {"int8": "rtn", "int4": "gptq"}
BLOCKS = (128, 64, 32, 16)
# The held-out text that ranks the layers: so many windows, of at most so many tokens each.
RANKING_WINDOWS, RANKING_LENGTH = 4, 128
WORST = 5  # number of layers that an error names


def quantize_within_budget(
    model: LayeredModel,
    precision: Precision,
    windows: Tensor,
    calibration: Tensor | None,
    settings: ExportSettings,
    progress: Progress,
) -> tuple[dict[str, BlockQuantized], Quantization]:
    """Return the quantised weights of `model`, and the manifest's entry for them.

    Args:
        model: in float32; it stays as it is.
        precision: "int8" or "int4".
        windows: held-out text to measure the loss on, int64 [N, T + 1].
        calibration: another text for GPTQ, int64 [M, T]; None for other methods.
        settings: the method, the budget and the layers to keep, see `ExportSettings`.
        progress: called with a message as each stage begins.

    Raises:
        ExportError: if the loss is over the budget; names the layers that cost most.
        InvalidInputError: for an impossible setting.
    """
    method = method_of(precision, settings)
    max_kl = BUDGETS[precision] if settings.max_kl is None else settings.max_kl
    block, kept = _grid(model.model)
    if settings.keep_fp32 != AUTO:
        kept |= _matching(model.model, settings.keep_fp32 or ())
    progress(f"quantising to {precision} ({method}, blocks of {block})", 0, 0)
    weights = quantize(
        model,
        BITS[precision],
        block=block,
        symmetric=True,
        method=method,
        calibration=calibration,
        keep=kept,
        progress=progress,
    )
    progress("measuring what quantisation costs", 0, 0)
    yardstick = Yardstick(model, windows)
    quality = yardstick.measure(with_weights(model, weights))
    if not quality.kl <= max_kl:
        progress("looking for the layers that cost most", 0, 0)
        ranking = windows[:RANKING_WINDOWS, : RANKING_LENGTH + 1]
        costs = layer_costs(model, weights, ranking)
        if settings.keep_fp32 != AUTO:
            raise ExportError(_past_budget(precision, quality.kl, max_kl, costs))
        more = keep_enough(yardstick, weights, costs, max_kl)
        kept |= more
        weights = {name: weight for name, weight in weights.items() if name not in more}
        quality = yardstick.measure(with_weights(model, weights))
    reference = yardstick.measure(model)
    return weights, Quantization(
        method=method,
        block=block,
        kept=sorted(kept),
        quality=quality,
        reference_perplexity=reference.perplexity,
        max_kl=float(max_kl),
    )


def method_of(precision: Precision, settings: ExportSettings) -> Literal["rtn", "gptq"]:
    """Return the method that the settings choose, or the precision's own.

    Raises:
        InvalidInputError: if a calibration text is given to a method without one.
    """
    method = settings.method or METHODS[precision]
    if settings.calibration is not None and method != "gptq":
        raise InvalidInputError(f"calibration is for the method gptq, not for {method}")
    return method


def _grid(model: GPT) -> tuple[int, frozenset[str]]:
    """Return the widest block that divides all rows evenly, and weights to leave in float32.

    Wider blocks have fewer scales to read. If no block divides all rows, the narrowest one is
    used. A tied table is then left in float32 if its rows end within a block, because a lookup
    reads full blocks only.
    """
    widths = {model.get_parameter(name).shape[1] for name in weight_names(model)}
    for block in BLOCKS:
        if all(width % block == 0 for width in widths):
            return block, frozenset()
    tables = model.tied_names().values() if model.config.n_embd % BLOCKS[-1] else ()
    return BLOCKS[-1], frozenset(tables)


def _matching(model: GPT, patterns: tuple[str, ...]) -> frozenset[str]:
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
        f"{kl:.2e}, the budget {max_kl:.2e}. The layers that cost most: {worst}. Keep some in "
        f"float32 (--keep-fp32 LAYERS, or auto for as few as needed), take a precision with more "
        f"bits, or allow more with --max-kl. Nothing was written."
    )
