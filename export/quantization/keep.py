"""Rank weights by what quantising them costs, and choose the few to quantise less, or not."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import neg
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from edgegpt.model import GPT

from ..layered import LayeredModel, linears_of
from ..paired import EncodedPair, PairedModel, forwarded
from .blocks import BlockQuantized
from .quality import Measured, Yardstick, quantised, round_blocks

__all__ = ["Better", "Ranking", "layer_costs"]

# What replaces a weight: the same weight with a smaller error, or None for the float32 values.
Better = Callable[[str], BlockQuantized | None]

FLOAT_BYTES = 4
AIM, CLOSE = 0.95, 0.9  # shares of the budget that the search aims at, and that end it
SEED = 0


def layer_costs(
    reference: Measured, weights: Mapping[str, BlockQuantized], texts: Any
) -> dict[str, float]:
    """Estimate the KL per token that quantising only one weight costs, for each one, worst first.

    To second order, a change d of a layer's output costs d F d / 2, where F is the output's Fisher
    matrix: the mean of g g^T over ids drawn from the model's own distribution, with the gradient g
    of such an id's log probability. One drawn id for each position of `texts`, windows int64
    [N, T + 1] or pairs, makes this the sum of (g d)^2 / 2 (the d of other positions is neglected).
    So the text passes the model once forwards and once backwards, and a few hundred tokens are
    enough.
    """
    costs = _Costs(reference, weights)
    if isinstance(reference, PairedModel):
        count = _costs_on_pairs(reference, costs, texts)
    else:
        assert isinstance(reference, LayeredModel), "there are two kinds of models"
        count = _costs_on_windows(reference, costs, texts)
    each = {name: total / count for name, total in costs.totals.items()}
    return dict(sorted(each.items(), key=lambda item: item[1], reverse=True))


def _costs_on_pairs(reference: PairedModel, costs: "_Costs", pairs: Sequence[EncodedPair]) -> int:
    """Add up the costs on pairs, of the whole model at once; return the number of positions."""
    with reference.filled() as model, costs.watched(model), torch.enable_grad():
        for parameter in model.parameters():
            parameter.requires_grad_()
        for pair in pairs:
            _drawn(forwarded(model, pair)).backward()
    return sum(len(target) - 1 for _, target in pairs)


def _costs_on_windows(reference: LayeredModel, costs: "_Costs", windows: Tensor) -> int:
    """Add up the costs on windows, layer by layer; return the number of positions."""
    ids, weights = windows[:, :-1], costs.weights
    streams = [reference.embedded(ids)]  # (N, T, C) each
    for index in range(reference.config.n_layer):
        streams += reference.after_block(index, streams[-1])
    with reference.filled("norm_final", "head") as model:
        gradient = costs.back(model, "head", partial(_log_probability, model), streams.pop())
    for index in reversed(range(reference.config.n_layer)):
        part = f"blocks.{index}"
        with reference.filled(part) as model:
            block = partial(model.blocks[index], rotary=model.rotary[index])
            gradient = costs.back(model, part, block, streams[index], gradient)
    for name in weights.keys() & reference.model.tied_names().values():
        change = quantised(reference, {name: weights[name]}).embedded(ids) - streams[0]
        costs.add(name, change, gradient)
    return ids.numel()


def _log_probability(model: GPT, stream: Tensor) -> Tensor:
    """Return the sum of the log probabilities of ids that the model draws after [N, T, C]."""
    return _drawn(model.to_logits(stream))


def _drawn(logits: Tensor) -> Tensor:
    """Return the sum of the log probabilities of ids drawn from logits [N, T, V]."""
    logs = logits.log_softmax(-1)  # (N, T, V)
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.multinomial(logs.detach().exp().flatten(0, 1), 1, generator=generator)
    return logs.flatten(0, 1).gather(1, drawn).sum()


class _Costs:
    """Adds up what each quantised weight costs, while the float32 model runs backwards."""

    def __init__(self, reference: Measured, weights: Mapping[str, BlockQuantized]) -> None:
        self.weights, self.tied = weights, reference.model.tied_names()
        self.totals = dict.fromkeys(weights, 0.0)

    def back(
        self,
        model: GPT,
        part: str,
        run: Callable[[Tensor], Tensor],
        stream: Tensor,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """Run a part of the model on `stream`, and return the gradient there.

        `gradient` is that of the result, which is a single number if there is none.
        """
        with self.watched(model, part), torch.enable_grad():
            stream.requires_grad_()
            (found,) = torch.autograd.grad(run(stream), stream, gradient)
        return found

    @contextmanager
    def watched(self, model: nn.Module, part: str = "") -> Iterator[None]:
        """Watch the layers of a part of the model, as long as the context lasts."""
        own = {self.tied.get(name, name): layer for name, layer in linears_of(model, part).items()}
        with ExitStack() as watches:
            for name in own.keys() & self.weights:
                watch = own[name].register_forward_hook(partial(self._watch, name))
                watches.callback(watch.remove)
            yield

    def _watch(self, name: str, layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        with torch.no_grad():
            weight = torch.from_numpy(self.weights[name].dequantized())
            read = round_blocks(inputs[0], self.weights[name].block)
            change = linear(read, weight, layer.bias) - output  # (N, T, outputs)
        output.register_hook(partial(self.add, name, change))

    def add(self, name: str, change: Tensor, gradient: Tensor) -> None:
        """Add what a change [N, T, K] costs, from the gradient [N, T, K] there."""
        self.totals[name] += (gradient * change).sum(-1).square().sum().item() / 2


class Ranking:
    """Quantised weights in the order in which it pays to replace them by better ones.

    Weights are ranked by their cost divided by the bytes that the replacement adds, and a head of
    the ranking is replaced. The other weights keep their integers, so GPTQ need not run again.
    """

    def __init__(
        self,
        yardstick: Yardstick,
        source: Measured,
        weights: Mapping[str, BlockQuantized],
        better: Better,
        costs: Mapping[str, float],
    ) -> None:
        """Rank the weights.

        Args:
            yardstick: measures how long the head has to be.
            source: the float32 model whose weights were quantised.
            weights: the quantised weights by name.
            better: returns what replaces the weight of a name.
            costs: what each weight costs, see `layer_costs`.
        """
        self.yardstick, self.source, self.all, self.costs = yardstick, source, weights, costs
        self.replacements = {name: better(name) for name in weights}
        self.names = sorted(weights, key=self._gain, reverse=True)
        self.known: dict[int, float] = {}  # KL by the length of the head

    def _gain(self, name: str) -> float:
        weight, other = self.all[name], self.replacements[name]
        size = math.prod(weight.shape) * FLOAT_BYTES if other is None else other.size
        return self.costs[name] / max(1, size - weight.size)

    def weights(self, count: int) -> dict[str, BlockQuantized]:
        """Return the weights with the first `count` of the ranking replaced."""
        head = {name: self.replacements[name] for name in self.names[:count]}
        chosen = {**self.all, **head}
        return {name: weight for name, weight in chosen.items() if weight is not None}

    def kl(self, count: int) -> float:
        """Return the KL per token with the first `count` replaced."""
        if count not in self.known:
            model = quantised(self.source, self.weights(count))
            self.known[count] = self.yardstick.measure(model).kl
        return self.known[count]

    def fewest(self, budget: float) -> int:
        """Return about how few weights are to be replaced for a KL within `budget`.

        If it is not enough to replace all, all are. The number is found by measuring: at every
        other step as if KL were linear in the costs that are left, between two lengths measured
        before, until the budget is nearly used.
        """
        few, many = 0, len(self.names)
        if self.kl(few) <= budget:
            return few
        left = [sum(map(self.costs.__getitem__, self.names[count:])) for count in range(many + 1)]
        turn = False
        while self.kl(many) < CLOSE * budget and many - few > 1:
            share = (AIM * budget - self.kl(many)) / (self.kl(few) - self.kl(many))
            wanted = left[many] + share * (left[few] - left[many])
            count = (few + many) // 2 if turn else bisect_left(left, -wanted, key=neg)
            count, turn = min(max(count, few + 1), many - 1), not turn
            few, many = (few, count) if self.kl(count) <= budget else (count, many)
        return many
