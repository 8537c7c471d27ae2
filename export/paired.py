"""An encoder-decoder on held-out pairs, run whole; what `LayeredModel` is for a GPT on windows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edgegpt.model import Seq2Seq, Seq2SeqConfig
from edgegpt.model_weights import give_weights, skeleton, take_weights

__all__ = ["EncodedPair", "PaddedPairs", "PairedModel", "forwarded"]

EncodedPair = tuple[list[int], list[int]]  # ids of a source and a target, starts and ends included


class PairedModel:
    """A model in eval mode as its configuration, and its weights by name."""

    def __init__(self, config: Seq2SeqConfig, weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, weights
        self.model = skeleton(config)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Return a model of the same settings with other weights."""
        return type(self)(self.config, weights)

    @contextmanager
    def filled(self) -> Iterator[Seq2Seq]:
        """Yield the model with all its weights, as long as the context lasts."""
        names = [name for name, _ in self.model.named_parameters()]
        give_weights(self.model, self.weights, names)
        try:
            yield self.model
        finally:
            take_weights(self.model, names)

    @torch.no_grad()
    def final_streams(self, pairs: Sequence[EncodedPair]) -> list[Tensor]:
        """Return the logits [T, V] of each pair's target but its last id.

        They are already the logits: these models are small.
        """
        with self.filled() as model:
            return [forwarded(model, pair)[0] for pair in pairs]

    def logits(self, streams: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the logits [T, V] of each pair."""
        return iter(streams)

    def following(self, pairs: Sequence[EncodedPair]) -> Iterator[Tensor]:
        """Yield the ids that follow in each target, int64 [T]."""
        return (torch.tensor(target[1:]) for _, target in pairs)

    def some(self, pairs: Sequence[EncodedPair], count: int, length: int) -> Sequence[EncodedPair]:
        """Return as many of the pairs as have about `count` times `length` tokens."""
        chosen, left = [], count * length
        for pair in pairs:
            if left <= 0:
                break
            chosen.append(pair)
            left -= len(pair[1])
        return chosen


def forwarded(model: Seq2Seq, pair: EncodedPair) -> Tensor:
    """Return the logits [1, T, V] of a pair's target but its last id, on the plain path."""
    source, target = pair
    lengths = torch.tensor([len(source)])
    logits: Tensor = model(torch.tensor([source]), lengths, torch.tensor([target[:-1]]))
    return logits


class PaddedPairs:
    """Pairs as one batch: sources [G, N], lengths [G], targets [G, T], and which places count."""

    def __init__(self, pairs: Sequence[EncodedPair]) -> None:
        sources, targets = (
            [torch.tensor(side) for side in sides] for sides in zip(*pairs, strict=True)
        )
        self.sources = pad_sequence(sources, batch_first=True)  # (G, N)
        self.targets = pad_sequence(targets, batch_first=True)  # (G, T)
        self.lengths = torch.tensor([len(source) for source in sources])
        self.of_source = torch.arange(self.sources.shape[1]) < self.lengths[:, None]  # (G, N)
        ends = torch.tensor([len(target) for target in targets])
        self.of_target = torch.arange(self.targets.shape[1]) < ends[:, None]  # (G, T)

    def read_by(self, name: str) -> Tensor:
        """Return which places of its input the layer with the weight `name` reads for real."""
        of_encoder = name.startswith("encoder.") or ".source_attention.kv." in name
        return self.of_source if of_encoder else self.of_target
