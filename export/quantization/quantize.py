"""Quantise a model's weights: all Linear layers, and a tied embedding together with the head."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT, GPTConfig, Seq2Seq
from edgegpt.runtime.progress import Progress, silent

from ..layered import LayeredModel, linears_of
from ..paired import EncodedPair, PaddedPairs, PairedModel
from .blocks import BlockQuantized, round_to_nearest
from .calibration import gram, require_finite
from .gptq import gptq, inverse_factor
from .quality import Measured, quantised

__all__ = ["quantize", "weight_names"]

MIN_BLOCK = 16  # the smallest block of MatMulNBits and GatherBlockQuantized


def weight_names(model: GPT | Seq2Seq) -> list[str]:
    """Return the weights that `quantize` covers, named as in `named_parameters`, in model order.

    A tied table has the embedding's name. An embedding that is not tied is left alone, because a
    token reads only one row of it. The head is the last one.
    """
    parts, tied = model.named_modules(), model.tied_names()
    names = [f"{name}.weight" for name, part in parts if isinstance(part, nn.Linear)]
    return [tied.get(name, name) for name in names]


def quantize(
    model: Measured,
    bits: int,
    *,
    block: int | None,
    method: Literal["rtn", "gptq"],
    calibration: Any = None,
    keep: frozenset[str] = frozenset(),
    progress: Progress = silent,
) -> dict[str, BlockQuantized]:
    """Return the quantised weights of a model. The model stays as it is.

    Args:
        model: the model, in float32.
        bits: 4 or 8.
        block: width of a block, a power of two and at least 16, as MatMulNBits requires; None:
            each row is one block.
        method: "rtn" rounds to nearest; "gptq" needs a calibration text.
        calibration: token windows int64 [N, T], or pairs, which "gptq" needs.
        keep: names of weights to leave in float32.
        progress: called before each layer.

    Raises:
        InvalidInputError: for other bits, blocks or methods, for a name in `keep` that the model
            does not have, and for calibration windows that the model cannot take.
        NumericalError: for a weight with values that are not finite.
    """
    names = weight_names(model.model)
    unknown = sorted(keep.difference(names))
    if unknown:
        raise InvalidInputError(
            f"cannot keep {', '.join(unknown)} in float32: the model has no such weight; "
            f"it has {', '.join(names)}"
        )
    _check(bits, block, method)
    wanted, grid = [name for name in names if name not in keep], _Grid(bits, block)
    if method == "gptq":
        if calibration is None:
            raise InvalidInputError("gptq needs a calibration text")
        if isinstance(model, PairedModel):
            return _pairs_with_gptq(model, wanted, calibration, grid, progress)
        assert isinstance(model, LayeredModel), "there are two kinds of models"
        _check_windows(model.config, calibration)
        return _with_gptq(model, wanted, calibration, grid, progress)
    done = {}
    for index, name in enumerate(wanted):
        progress("rounding the weights", index, len(wanted))
        done[name] = grid.nearest(_finite(model, name))
    return done


@torch.no_grad()
def _with_gptq(
    model: LayeredModel,
    wanted: list[str],
    windows: Tensor,
    grid: "_Grid",
    progress: Progress,
) -> dict[str, BlockQuantized]:
    """Quantise layer after layer, each on the inputs that the quantised layers before it give."""
    done, factors = _tied_tables(model, wanted, grid), _Factors()

    def quantise(name: str, layer: nn.Linear, inputs: tuple[Tensor]) -> None:
        done[name] = grid.corrected(name, layer, factors.of(inputs[0]))

    stream = quantised(model, done).embedded(windows)  # (N, T, C)
    for index in range(model.config.n_layer):
        part = f"blocks.{index}"
        progress("quantising block after block", index, model.config.n_layer)
        with model.filled(part) as filled, ExitStack() as hooks:
            for name, layer in linears_of(filled, part).items():
                if name in wanted:  # just before the layer runs on all windows at once
                    hook = layer.register_forward_pre_hook(partial(quantise, name))
                    hooks.callback(hook.remove)
            stream = filled.blocks[index](stream, filled.rotary[index])
    name = "head.weight"
    if name in wanted:
        with model.filled("norm_final") as filled:
            factor = factors.of(filled.norm_final(stream))
        done[name] = grid.gptq(_finite(model, name), factor)
    return done


@torch.no_grad()
def _pairs_with_gptq(
    model: PairedModel,
    wanted: list[str],
    pairs: Sequence[EncodedPair],
    grid: "_Grid",
    progress: Progress,
) -> dict[str, BlockQuantized]:
    """Do the same in one pass of a whole encoder-decoder over all pairs."""
    done, batch = _tied_tables(model, wanted, grid), PaddedPairs(pairs)
    left = [name for name in wanted if name not in done]

    def quantise(name: str, layer: nn.Linear, inputs: tuple[Tensor]) -> None:
        progress("quantising layer after layer", len(done), len(wanted))
        factor = inverse_factor(gram(inputs[0][batch.read_by(name)]))
        done[name] = grid.corrected(name, layer, factor)

    with quantised(model, done).filled() as filled, ExitStack() as hooks:
        for name, layer in linears_of(filled).items():
            if name in left:
                hook = layer.register_forward_pre_hook(partial(quantise, name))
                hooks.callback(hook.remove)
        filled(batch.sources, batch.lengths, batch.targets)
    return done


@dataclass(frozen=True)
class _Grid:
    """How all weights are rounded."""

    bits: int
    block: int | None  # None: a whole row

    def nearest(self, weight: Tensor) -> BlockQuantized:
        """Return the integers of a weight [N, K], rounded to nearest."""
        block = self.block or weight.shape[1]
        return round_to_nearest(weight, self.bits, block)

    def gptq(self, weight: Tensor, factor: Tensor) -> BlockQuantized:
        """Return the integers of a weight [N, K] by GPTQ."""
        block = self.block or weight.shape[1]
        return gptq(weight, factor, self.bits, block)

    def corrected(self, name: str, layer: nn.Linear, factor: Tensor) -> BlockQuantized:
        """Return a layer's integers by GPTQ; the layer gets what they stand for."""
        require_finite(name, layer.weight)
        found = self.gptq(layer.weight, factor)
        layer.weight = nn.Parameter(torch.from_numpy(found.dequantized()))
        return found


def _tied_tables(model: Measured, wanted: list[str], grid: _Grid) -> dict[str, BlockQuantized]:
    """Return the integers of a tied table, if it is wanted.

    It is rounded to nearest, because GPTQ with the head's Hessian would allow errors that the
    embedding cannot afford. It is rounded first, so that all later parts see the result.
    """
    tied = dict.fromkeys(name for name in model.model.tied_names().values() if name in wanted)
    return {name: grid.nearest(_finite(model, name)) for name in tied}


class _Factors:
    """Factors of what layers read; a layer beside another, such as a gate, reads the same."""

    def __init__(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None

    def of(self, inputs: Tensor) -> Tensor:
        """Return the factor, float32 [K, K], of the inputs [..., K]."""
        if self.last is None or self.last[0] is not inputs:
            self.last = None  # its memory is needed
            self.last = inputs, inverse_factor(gram(inputs))
        return self.last[1]


def _finite(model: Measured, name: str) -> Tensor:
    """Return the weight `name`; refuse one that has values that are not finite."""
    weight = model.weights[name]
    require_finite(name, weight)
    return weight


def _check(bits: int, block: int | None, method: str) -> None:
    if bits not in (4, 8):
        raise InvalidInputError(f"weights of {bits} bits are not supported; choose 4 or 8")
    if block is not None and (block < MIN_BLOCK or block & (block - 1)):
        raise InvalidInputError(
            f"a block of {block} weights is not a power of two from {MIN_BLOCK} on"
        )
    if method not in ("rtn", "gptq"):
        raise InvalidInputError(f"unknown method {method!r}; choose rtn or gptq")


def _check_windows(config: GPTConfig, windows: Tensor) -> None:
    longest = config.block_size
    if not (windows.dim() == 2 and 1 <= windows.shape[1] <= longest):
        raise InvalidInputError(
            f"calibration windows of shape {list(windows.shape)} do not fit the model; they must "
            f"be [N, T] with at most {longest} tokens each"
        )
