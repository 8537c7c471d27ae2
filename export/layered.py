"""A model that is run layer by layer, with the weights of only one layer in memory.

It computes the plain path of `GPT.forward`. All texts pass a layer before the next layer's weights
are read, so the weights are read once, however many texts there are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT, GPTConfig
from edgegpt.model_weights import give_weights, skeleton, take_weights

__all__ = ["LayeredModel", "after_block", "linears_of"]

LOGITS = 2**23  # in memory at once; their statistics take ten times their 32 MB


class LayeredModel:
    """A model in eval mode as its configuration, and its weights by name."""

    def __init__(self, config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, weights
        self.model = skeleton(config)
        self.rows = max(1, LOGITS // config.vocab_size)  # positions in a piece of logits

    @classmethod
    def of(cls, model: GPT) -> "LayeredModel":
        """Return a view of a model that is in memory."""
        return cls(model.config, {name: part.data for name, part in model.named_parameters()})

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Return a model of the same settings with other weights."""
        return type(self)(self.config, weights)

    @contextmanager
    def filled(self, *names: str) -> Iterator[GPT]:
        """Yield the model; only the modules `names` have weights, as long as the context lasts."""
        tied, prefixes = self.model.tied_names(), tuple(f"{name}." for name in names)
        state = [name for name in self.model.state_dict() if name.startswith(prefixes)]
        own = list(dict.fromkeys(tied.get(name, name) for name in state))
        give_weights(self.model, self.weights, own)
        try:
            yield self.model
        finally:
            take_weights(self.model, own)

    @torch.no_grad()
    def embedded(self, ids: Tensor) -> Tensor:
        """Return the residual stream [N, T, C] that enters the first block, for ids [N, T]."""
        first = {name.partition(".")[0] for name in self.model.state_dict()}
        with self.filled(*first.difference(("blocks", "norm_final", "head"))) as model:
            return model.embed(ids)

    @torch.no_grad()
    def after_block(self, index: int, *streams: Tensor) -> list[Tensor]:
        """Return each of the streams [N, T, C] after a block."""
        with self.filled(f"blocks.{index}") as model:
            return [after_block(model, index, stream) for stream in streams]

    def final_stream(self, ids: Tensor) -> Tensor:
        """Return the residual stream [N, T, C] after the last block, for ids [N, T]."""
        stream = self.embedded(ids)
        for index in range(self.config.n_layer):
            (stream,) = self.after_block(index, stream)
        return stream

    def final_streams(self, windows: Tensor) -> Tensor:
        """Return the stream [N, T, C] of all but the last id of windows int64 [N, T + 1]."""
        if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
            raise InvalidInputError(
                f"quality is measured on token windows [N, T + 1], not {list(windows.shape)}"
            )
        return self.final_stream(windows[:, :-1])

    def following(self, windows: Tensor) -> Iterator[Tensor]:
        """Yield the ids that follow in windows [N, T + 1], in the pieces that `logits` yields."""
        return (ids for window in windows for ids in window[1:].split(self.rows))

    def some(self, windows: Tensor, count: int, length: int) -> Tensor:
        """Return the first windows, of at most `length` predictions each."""
        return windows[:count, : length + 1]

    @torch.no_grad()
    def logits(self, stream: Tensor) -> Iterator[Tensor]:
        """Yield the logits [rows, V] of the stream [N, T, C] after the last block, piece by piece.

        A piece has at most `LOGITS` numbers, and they are of one text.
        """
        with self.filled("norm_final", "head") as model:
            for text in stream:
                for rows in text.split(self.rows):
                    yield model.to_logits(rows)


@torch.no_grad()
def after_block(model: GPT, index: int, stream: Tensor, size: int = 1) -> Tensor:
    """Return the stream [N, T, C] after a block of `model`; compute `size` texts at a time."""
    block, rotary = model.blocks[index], model.rotary[index]
    return torch.cat([block(some, rotary) for some in stream.split(size)])


def linears_of(model: nn.Module, part: str = "") -> dict[str, nn.Linear]:
    """Return the Linear layers within the module `part`, by the names of their weights.

    The head has its own name here, although its weight may be tied.
    """
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (not part or f"{name}.".startswith(f"{part}."))
    }
