"""Quantise a model's weights: all Linear layers, and a tied embedding together with the head."""

import copy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError, NumericalError
from edgegpt.model import GPT
from edgegpt.model.layers import Rotary

from .blocks import BlockQuantized, round_to_nearest
from .calibration import gram, input_hessians, own_windows
from .gptq import gptq

__all__ = ["quantize", "weight_names"]

MIN_BLOCK = 16  # the smallest block of MatMulNBits and GatherBlockQuantized
BATCH = 8  # calibration windows in one forward pass


def weight_names(model: GPT) -> list[str]:
    """Return the weights that `quantize` covers, named as in `named_parameters`, in model order.

    A tied table has the embedding's name. An embedding that is not tied is left alone, because a
    token reads only one row of it.
    """
    parts, tied = model.named_modules(), model.tied_names()
    names = [f"{name}.weight" for name, part in parts if isinstance(part, nn.Linear)]
    return [tied.get(name, name) for name in names]


def quantize(
    model: GPT,
    bits: int,
    *,
    block: int,
    symmetric: bool,
    method: Literal["rtn", "gptq"],
    calibration: Tensor | None = None,
    keep: frozenset[str] = frozenset(),
) -> dict[str, BlockQuantized]:
    """Return the quantised weights of a model in eval mode and float32. The model stays as it is.

    Args:
        model: the model.
        bits: 4 or 8.
        block: width of a block, a power of two and at least 16, as MatMulNBits requires.
        symmetric: whether all zero points are 2^(bits - 1).
        method: "rtn" rounds to nearest; "gptq" needs a calibration text.
        calibration: token windows int64 [N, T] for "gptq"; None lets the model write its own.
        keep: names of weights to leave in float32.

    Raises:
        InvalidInputError: for other bits, blocks or methods, for a name in `keep` that the model
            does not have, and for calibration windows that the model cannot take.
        NumericalError: for a weight with values that are not finite.
    """
    names = weight_names(model)
    _check(model, bits, block, method, calibration)
    unknown = sorted(keep.difference(names))
    if unknown:
        raise InvalidInputError(
            f"cannot keep {', '.join(unknown)} in float32: the model has no such weight; "
            f"it has {', '.join(names)}"
        )
    wanted = [name for name in names if name not in keep]
    for name in wanted:
        if not model.get_parameter(name).isfinite().all():
            raise NumericalError(
                f"{name} holds values that are not finite: it cannot be quantised; train it again"
            )
    if method == "gptq":
        windows = own_windows(model) if calibration is None else calibration
        return _with_gptq(model, wanted, windows, bits, block, symmetric)
    return {
        name: round_to_nearest(model.get_parameter(name), bits, block, symmetric=symmetric)
        for name in wanted
    }


@torch.no_grad()
def _with_gptq(
    model: GPT, wanted: list[str], windows: Tensor, bits: int, block: int, symmetric: bool
) -> dict[str, BlockQuantized]:
    """Quantise block after block, each on the inputs that the quantised blocks before it give.

    A tied table is rounded to nearest, because GPTQ with the head's Hessian would allow errors that
    the embedding cannot afford. It is rounded first, so that all later parts see the result.
    """
    model = copy.deepcopy(model)
    done = {}
    for name in model.tied_names().values():
        if name in wanted:
            table = model.get_parameter(name)
            done[name] = round_to_nearest(table, bits, block, symmetric=symmetric)
            table.copy_(torch.from_numpy(done[name].dequantized()))
    names = {part: name for name, part in model.named_modules()}
    stream = model.embed(windows)  # (N, T, C)
    for part, rotary in zip(model.blocks, model.rotary, strict=True):
        linears = {
            names[linear]: linear
            for linear in part.modules()
            if isinstance(linear, nn.Linear) and f"{names[linear]}.weight" in wanted
        }
        hessians = input_hessians(linears, partial(_after, part, rotary, stream))
        for name, linear in linears.items():
            weight = gptq(linear.weight, hessians[name], bits, block, symmetric=symmetric)
            linear.weight.copy_(torch.from_numpy(weight.dequantized()))
            done[f"{name}.weight"] = weight
        stream = _after(part, rotary, stream)
    name = f"{names[model.head]}.weight"
    if name in wanted:
        hessian = gram(model.norm_final(stream))
        done[name] = gptq(model.head.weight, hessian, bits, block, symmetric=symmetric)
    return done


def _after(part: nn.Module, rotary: Rotary, stream: Tensor) -> Tensor:
    """Return the stream [N, T, C] after the block `part`; compute a few windows at a time."""
    return torch.cat([part(some, rotary) for some in stream.split(BATCH)])


def _check(model: GPT, bits: int, block: int, method: str, windows: Tensor | None) -> None:
    if bits not in (4, 8):
        raise InvalidInputError(f"weights of {bits} bits are not supported; choose 4 or 8")
    if block < MIN_BLOCK or block & (block - 1):
        raise InvalidInputError(
            f"a block of {block} weights is not a power of two from {MIN_BLOCK} on"
        )
    if method not in ("rtn", "gptq"):
        raise InvalidInputError(f"unknown method {method!r}; choose rtn or gptq")
    longest = model.config.block_size
    if windows is not None and not (windows.dim() == 2 and 1 <= windows.shape[1] <= longest):
        raise InvalidInputError(
            f"calibration windows of shape {list(windows.shape)} do not fit the model; they must "
            f"be [N, T] with at most {longest} tokens each"
        )
