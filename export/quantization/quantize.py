"""Quantise a model's weights: all Linear layers, and a tied embedding together with the head."""

from contextlib import ExitStack
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.progress import Progress, silent

from ..layered import LayeredModel, linears_of
from .blocks import BlockQuantized, round_to_nearest
from .calibration import gram, require_finite
from .gptq import gptq, inverse_factor
from .quality import quantised

__all__ = ["quantize", "weight_names"]

MIN_BLOCK = 16  # the smallest block of MatMulNBits and GatherBlockQuantized


def weight_names(model: GPT) -> list[str]:
    """Return the weights that `quantize` covers, named as in `named_parameters`, in model order.

    A tied table has the embedding's name. An embedding that is not tied is left alone, because a
    token reads only one row of it.
    """
    parts, tied = model.named_modules(), model.tied_names()
    names = [f"{name}.weight" for name, part in parts if isinstance(part, nn.Linear)]
    return [tied.get(name, name) for name in names]


def quantize(
    model: LayeredModel,
    bits: int,
    *,
    block: int,
    symmetric: bool,
    method: Literal["rtn", "gptq"],
    calibration: Tensor | None = None,
    keep: frozenset[str] = frozenset(),
    progress: Progress = silent,
) -> dict[str, BlockQuantized]:
    """Return the quantised weights of a model. The model stays as it is.

    Args:
        model: the model, in float32.
        bits: 4 or 8.
        block: width of a block, a power of two and at least 16, as MatMulNBits requires.
        symmetric: whether all zero points are 2^(bits - 1).
        method: "rtn" rounds to nearest; "gptq" needs a calibration text.
        calibration: token windows int64 [N, T], which "gptq" needs.
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
    _check(model.config, bits, block, method, calibration)
    wanted = [name for name in names if name not in keep]
    if method == "gptq":
        assert calibration is not None  # `_check` wants it
        return _with_gptq(model, wanted, calibration, bits, block, symmetric, progress)
    done = {}
    for index, name in enumerate(wanted):
        progress("rounding the weights", index, len(wanted))
        done[name] = round_to_nearest(_finite(model, name), bits, block, symmetric=symmetric)
    return done


@torch.no_grad()
def _with_gptq(
    model: LayeredModel,
    wanted: list[str],
    windows: Tensor,
    bits: int,
    block: int,
    symmetric: bool,
    progress: Progress,
) -> dict[str, BlockQuantized]:
    """Quantise layer after layer, each on the inputs that the quantised layers before it give.

    A tied table is rounded to nearest, because GPTQ with the head's Hessian would allow errors that
    the embedding cannot afford. It is rounded first, so that all later parts see the result.
    """
    done = {}
    for name in model.model.tied_names().values():
        if name in wanted:
            done[name] = round_to_nearest(_finite(model, name), bits, block, symmetric=symmetric)

    factors = _Factors()

    def quantise(name: str, layer: nn.Linear, inputs: tuple[Tensor]) -> None:
        require_finite(name, layer.weight)
        factor = factors.of(inputs[0])
        done[name] = gptq(layer.weight, factor, bits, block, symmetric=symmetric)
        layer.weight = nn.Parameter(torch.from_numpy(done[name].dequantized()))

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
        done[name] = gptq(_finite(model, name), factor, bits, block, symmetric=symmetric)
    return done


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


def _finite(model: LayeredModel, name: str) -> Tensor:
    """Return the weight `name`; refuse one that has values that are not finite."""
    weight = model.weights[name]
    require_finite(name, weight)
    return weight


def _check(config: GPTConfig, bits: int, block: int, method: str, windows: Tensor | None) -> None:
    if bits not in (4, 8):
        raise InvalidInputError(f"weights of {bits} bits are not supported; choose 4 or 8")
    if block < MIN_BLOCK or block & (block - 1):
        raise InvalidInputError(
            f"a block of {block} weights is not a power of two from {MIN_BLOCK} on"
        )
    if method not in ("rtn", "gptq"):
        raise InvalidInputError(f"unknown method {method!r}; choose rtn or gptq")
    if method == "gptq" and windows is None:
        raise InvalidInputError("gptq needs a calibration text")
    longest = config.block_size
    if windows is not None and not (windows.dim() == 2 and 1 <= windows.shape[1] <= longest):
        raise InvalidInputError(
            f"calibration windows of shape {list(windows.shape)} do not fit the model; they must "
            f"be [N, T] with at most {longest} tokens each"
        )
