"""Float16 and bfloat16: a copy of the model whose sub-layers compute in the narrow type.

The copy is traced like any other model; no graph is rewritten. PyTorch can therefore run exactly
the model that is exported, and torch.onnx writes the casts. The tolerances in
`edgegpt.runtime.proof.tolerances` were measured in this way.

Weights, caches and matrix products are in the narrow type. Sums inside the norms and the softmax,
and the logits, are in float32. Parts that would overflow are kept in float32. Such a part is a
sub-layer with the norm before it, or `RESIDUAL`, the stream that all sub-layers add to.
"""

import copy
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError, NumericalError
from edgegpt.model import GPT, GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.runtime.bundle.vocabulary import Precision

__all__ = [
    "DTYPES",
    "RESIDUAL",
    "WIDER",
    "factors_fit",
    "in_half_precision",
    "matching_layers",
    "round_as",
]

DTYPES: dict[Precision, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}  # what to export in instead
RESIDUAL = "residual"


def matching_layers(model: GPT | Seq2Seq, patterns: Collection[str]) -> frozenset[str]:
    """Return the sub-layers whose names match a pattern: in full, or as a prefix up to a dot."""
    known = [*(layer.name for layer in model.sub_layers()), RESIDUAL]
    found: set[str] = set()
    for pattern in patterns:
        names = [name for name in known if f"{name}.".startswith(f"{pattern}.")]
        if not names:
            raise InvalidInputError(
                f"the model has no layer {pattern!r} to keep in float32; there are: "
                f"{', '.join(known[:2])} ... {', '.join(known[-2:])}"
            )
        found |= set(names)
    return frozenset(found)


def in_half_precision(
    model: GPT | Seq2Seq, precision: Precision, kept: Collection[str] = ()
) -> Any:
    """Return a copy of `model` in the type `precision`, except the parts named in `kept`."""
    narrow: Any = copy.deepcopy(model)  # as `model`
    dtype = DTYPES[precision]
    stream = torch.float32 if RESIDUAL in kept else dtype
    wide = set(_kept_parameters(narrow, kept))
    for module in narrow.modules():
        own = list(module.parameters(recurse=False))
        if own:
            module.register_forward_pre_hook(_widen_or_narrow)
            if not wide.intersection(own):
                module.to(dtype)
    for table in narrow.buffers():
        if table.is_floating_point():
            table.data = table.to(dtype)
    summed = [narrow.get_submodule(it.norm_sum) for it in narrow.sub_layers() if it.norm_sum]
    for module in (*narrow.writers(), *summed):
        module.register_forward_hook(_giving(stream))
    narrow.head.register_forward_hook(_giving(torch.float32))
    return narrow


@torch.no_grad()
def round_as(model: GPT | Seq2Seq, narrow: GPT | Seq2Seq) -> None:
    """Round the weights and tables of a float32 model to the types that a copy has them in.

    Raises:
        NumericalError: for a weight with values that its type cannot hold.
    """
    own = chain(model.named_parameters(), model.named_buffers())
    others = chain(narrow.parameters(), narrow.buffers())
    for (name, value), other in zip(own, others, strict=True):
        if other.dtype in DTYPES.values():
            value.copy_(value.to(other.dtype))
            if not value.isfinite().all():
                kind = str(other.dtype).removeprefix("torch.")
                raise NumericalError(
                    f"{name} has values that {kind} cannot hold: export in {WIDER[kind]}"
                )


def factors_fit(config: GPTConfig | Seq2SeqConfig, precision: Precision) -> bool:
    """Return whether graphs have the model's factors as they are; exporting rounds them, too."""
    stacks = (config,) if isinstance(config, GPTConfig) else (config.encoder, config.decoder)
    factors = torch.tensor(
        [
            factor
            for stack in stacks
            for factor in (stack.embedding_scale, stack.residual_scale, stack.attention_softcap)
        ]
    )
    return torch.equal(factors.to(DTYPES[precision]).float(), factors)


def _kept_parameters(model: GPT | Seq2Seq, kept: Collection[str]) -> Iterator[Tensor]:
    for layer in model.sub_layers():
        if layer.name in kept:
            yield from model.get_submodule(layer.name).parameters()
            if layer.norm_out is not None:
                yield from model.get_submodule(layer.norm_out).parameters()
        if layer.norm is not None and (layer.name in kept or RESIDUAL in kept):
            yield from model.get_submodule(layer.norm).parameters()
    if RESIDUAL in kept:  # the stream starts as the embeddings, whose values may be as large
        for module in model.writers():
            if isinstance(module, nn.Embedding):
                yield module.weight
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "norm_final":  # an encoder's is of no sub-layer
                yield from module.parameters()


def _widen_or_narrow(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast a module's input to the type of its weight; ids stay as they are."""
    dtype = next(module.parameters()).dtype
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def _giving(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Return a hook that casts a module's output."""

    def cast(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(dtype)

    return cast
