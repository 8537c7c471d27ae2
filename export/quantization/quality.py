"""The loss of quantisation: KL divergence, top-1 agreement and perplexity on a held-out text."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from edgegpt.runtime.bundle.manifest import Quality
from edgegpt.runtime.proof.quality import QualitySum

from ..layered import linears_of
from .blocks import BlockQuantized

__all__ = ["Dequantized", "Measured", "Yardstick", "quantised", "round_blocks"]


class Measured(Protocol):
    """A `LayeredModel`, whose texts are windows, or a `PairedModel`, whose texts are pairs."""

    config: Any
    model: Any

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights by name."""

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Return a model of the same settings with other weights."""

    def final_streams(self, texts: Any) -> Any:
        """Return what `logits` needs of texts."""

    def logits(self, streams: Any) -> Iterator[Tensor]:
        """Yield logits [T, V], piece by piece."""

    def following(self, texts: Any) -> Iterator[Tensor]:
        """Yield the ids that follow, int64 [T], in the same pieces."""

    def some(self, texts: Any, count: int, length: int) -> Any:
        """Return some of the texts."""


Model = TypeVar("Model", bound=Measured)

LARGEST = 127  # of an activation in int8


class Dequantized(Mapping[str, Tensor]):
    """The weights of a model, of which some are dequantised when they are asked for."""

    def __init__(
        self, weights: Mapping[str, Tensor], quantized: Mapping[str, BlockQuantized]
    ) -> None:
        self.weights, self.quantized = weights, quantized

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight `name`, float32."""
        if name in self.quantized:
            return torch.from_numpy(self.quantized[name].dequantized())
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all weights."""
        return iter(self.weights)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.weights)


def quantised(model: Model, weights: Mapping[str, BlockQuantized]) -> Model:
    """Return `model` as an engine runs it that multiplies int8 by quantised weights.

    The weights are replaced by their dequantised values. The layers that multiply by them round
    what they read as ONNX Runtime's kernels do (see `round_blocks`). A lookup reads exact rows.
    """
    result = model.with_weights(Dequantized(model.weights, weights))
    tied = result.model.tied_names()
    for name, linear in linears_of(result.model).items():
        weight = weights.get(tied.get(name, name))
        if weight is not None:
            linear.register_forward_pre_hook(partial(_round, weight.block))
    return result


def _round(block: int, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return round_blocks(inputs[0], block)


def round_blocks(x: Tensor, block: int) -> Tensor:
    """Round each block of `x` float32 [..., K] to int8, and return it in float32 [..., K].

    A block's largest magnitude becomes 127, as in MatMulNBits with accuracy level 4 on the CPU.
    """
    width = x.shape[-1]
    blocks = pad(x, (0, -width % block)).unflatten(-1, (-1, block))  # (..., G, block)
    step = blocks.abs().amax(-1, keepdim=True) / LARGEST
    step = torch.where(step == 0, 1.0, step)
    rounded: Tensor = (blocks / step).round().mul_(step)  # (..., G, block)
    return rounded.flatten(-2)[..., :width]  # (..., K)


class Yardstick:
    """The results of the float32 model on held-out texts, to measure other models against."""

    def __init__(self, reference: Measured, texts: Any) -> None:
        """Run the reference on `texts`: windows int64 [N, T + 1], or pairs."""
        self.reference, self.texts = reference, texts
        self.stream = reference.final_streams(texts)

    def measure(self, other: Measured) -> Quality:
        """Compare a model on all positions; it runs the plain path."""
        same = other is self.reference
        stream = self.stream if same else other.final_streams(self.texts)
        total, wanted = QualitySum(), self.reference.logits(self.stream)
        targets = self.reference.following(self.texts)
        for own, logits, ids in zip(other.logits(stream), wanted, targets, strict=True):
            total.add(own.numpy(), logits.numpy(), ids.numpy())
        return total.result()
