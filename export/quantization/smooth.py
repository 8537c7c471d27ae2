"""Even out what the layers read, so that they lose less when they are rounded in blocks.

A channel that is much larger than its neighbours costs them their precision, because a block has
one scale: a block of weights as well as one of activations. So each channel is divided by the root
of its magnitude, and the columns that read it are multiplied by the same factor. The division goes
into the weights that make the channel: the gain of a norm, the rows of the values, or the rows that
widen. The model computes the same, and pays nothing for it when it runs.

The idea is that of SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) and AWQ (Lin et al. 2023, arXiv
2306.00978). Here the factors are powers of two, which change no bit of a float32 result.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgegpt.model import GPTConfig
from edgegpt.model.layers import Block

from ..layered import LayeredModel, after_block, linears_of
from .calibration import squares, summed_inputs

__all__ = ["Rescaled", "smoothed"]

BATCH = 8  # windows in one forward pass
LARGEST = 10  # most powers of two by which a channel is moved
# Activations with act(c x) = c^degree act(x) for c > 0; others let no factor through.
DEGREES = {"relu": 1, "relu2": 2}


class Rescaled(Mapping[str, Tensor]):
    """The weights of a model, of which some have their rows or columns multiplied."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.rows: dict[str, Tensor] = {}  # factors [n] of the last rows of a weight [N, ...]
        self.columns: dict[str, Tensor] = {}  # factors [K] of a weight [N, K]

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight `name`, float32."""
        weight = self.weights[name]
        if name in self.rows:
            first, last = weight.tensor_split([len(weight) - len(self.rows[name])])
            last = torch.einsum("n...,n->n...", last, self.rows[name])
            weight = torch.cat([first, last])
        return weight * self.columns[name] if name in self.columns else weight

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all weights."""
        return iter(self.weights)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.weights)


@dataclass(frozen=True)
class _Link:
    """Channels that a module writes and others read. They are its last outputs.

    There are `heads` groups of channels, and each group is read `copies` times in a row. They are
    read after an activation of degree `degree`.
    """

    writer: str
    readers: tuple[str, ...]
    heads: int = 1
    copies: int = 1
    degree: int = 1


@torch.no_grad()
def smoothed(model: LayeredModel, windows: Tensor) -> Rescaled:
    """Return the weights of a model that computes the same with channels that are more even.

    `windows` int64 [N, T] is a text that shows how large the channels are.
    """
    result, stream = Rescaled(model.weights), model.embedded(windows)  # (N, T, C)
    for index, block in enumerate(model.model.blocks):
        part = f"blocks.{index}"
        with model.filled(part) as filled:
            linears = linears_of(filled, part)
            with summed_inputs(linears, squares) as sums:
                stream = after_block(filled, index, stream, BATCH)
        for link in _links(block, model.config):
            _move(result, f"{part}.", link, sums[f"{part}.{link.readers[0]}.weight"])
    if model.config.final_norm and not model.config.tie_embeddings:
        with model.filled("norm_final") as filled:
            total = squares(filled.norm_final(stream))
        _move(result, "", _Link("norm_final", ("head",)), total)
    return result


def _links(block: Block, config: GPTConfig) -> list[_Link]:
    """Return the links of a block; names are within the block."""
    wide = ("feed_forward.up", "feed_forward.gate") if config.gated else ("feed_forward.up",)
    kv_heads = config.n_kv_head
    links = [_Link("attention.qkv", ("attention.proj",), kv_heads, config.n_head // kv_heads)]
    before = {sub_layer.name: sub_layer.norm for sub_layer in block.sub_layers()}
    for name, readers in (("attention", ("attention.qkv",)), ("feed_forward", wide)):
        norm = before[name]
        if norm is not None:
            links.append(_Link(norm, readers))
    degree = 1 if config.gated else DEGREES.get(config.activation)
    if degree is not None:
        links.append(_Link("feed_forward.up", ("feed_forward.down",), degree=degree))
    return links


def _move(weights: Rescaled, prefix: str, link: _Link, squared: Tensor) -> None:
    """Move factors from the writer of a link to its readers.

    `squared` float64 [heads * copies * width] is the sum of squares of what the readers read.
    """
    groups = squared.view(link.heads, link.copies, -1)  # (heads, copies, width)
    exponents = _exponents(groups.mean(1, keepdim=True), link.degree)  # (heads, 1, width)
    read = torch.exp2(exponents * link.degree).expand_as(groups).flatten()
    for name in link.readers:
        weights.columns[f"{prefix}{name}.weight"] = read
    written = torch.exp2(-exponents).flatten()  # (heads * width)
    for name in (f"{prefix}{link.writer}.weight", f"{prefix}{link.writer}.bias"):
        if name in weights:
            weights.rows[name] = written


def _exponents(squared: Tensor, degree: int) -> Tensor:
    """Return the powers of two, float32, that make channels even to the root of what they were.

    A channel's magnitude is the root of `squared` and proportional to its factor^degree. The mean
    magnitude stays. A channel that is always zero keeps its weights.
    """
    logs = squared.log2() / 4
    logs = torch.where(squared > 0, logs, torch.nan)
    moved = (logs - logs.nanmean()) / degree
    return moved.nan_to_num(0.0).round().clamp(-LARGEST, LARGEST).float()
