"""The loss of quantisation: KL divergence, top-1 agreement and perplexity on a held-out text."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.manifest import Quality
from edgegpt.runtime.proof.quality import QualitySum

from ..layered import ROWS, LayeredModel
from .blocks import BlockQuantized

__all__ = ["Dequantized", "Yardstick", "compared", "with_weights"]


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


def with_weights(model: LayeredModel, quantized: Mapping[str, BlockQuantized]) -> LayeredModel:
    """Return `model` with some weights replaced by their dequantised values."""
    return LayeredModel(model.config, Dequantized(model.weights, quantized))


class Yardstick:
    """The results of the float32 model on held-out windows, to measure other models against."""

    def __init__(self, reference: LayeredModel, windows: Tensor) -> None:
        """Run the reference on `windows` int64 [N, T + 1]."""
        if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
            raise InvalidInputError(
                f"quality is measured on token windows [N, T + 1], not {list(windows.shape)}"
            )
        self.reference, self.windows = reference, windows
        self.stream = reference.final_stream(windows[:, :-1])

    def measure(self, quantised: LayeredModel) -> Quality:
        """Compare a model on all positions; it runs the plain path in float32."""
        same = quantised is self.reference
        stream = self.stream if same else quantised.final_stream(self.windows[:, :-1])
        return compared(self.windows, quantised.logits(stream), self.reference.logits(self.stream))


def compared(windows: Tensor, logits: Iterable[Tensor], reference: Iterable[Tensor]) -> Quality:
    """Compare logits after `windows`, in the pieces that `LayeredModel.logits` yields."""
    total = QualitySum()
    targets = (ids for window in windows for ids in window[1:].split(ROWS))
    for found, wanted, ids in zip(logits, reference, targets, strict=True):
        total.add(found.numpy(), wanted.numpy(), ids.numpy())
    return total.result()
