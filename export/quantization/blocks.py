"""A weight matrix as small unsigned integers with one scale per block, and rounding to nearest.

The layout is that of ONNX Runtime's `com.microsoft::MatMulNBits`. The weight [N, K] (outputs,
inputs) is cut along K into blocks; the last block is padded with zeros. Each block has a float32
scale: weight = (value - 2^(bits - 1)) * scale.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["BlockQuantized", "fit_grid", "round_to_nearest", "whole_rows"]

# Scales to try for a number of bits, as multiples of that at which a block's extreme value just
# fits. With 4 bits the best scale of 99% of the shipped model's blocks is in this range; at 8/7 the
# extreme is 7, not -8. With 8 bits, random blocks of 16 lose 3% more than if 15 scales are tried.
SCALE_FACTORS = {
    4: torch.linspace(0.8, 1.15, 15).tolist(),
    8: torch.linspace(0.95, 1.05, 5).tolist(),
}
LARGEST = 127  # of an int8, so that a row's both ends fit
SMALLEST_ROW = np.float32(1e-30)  # divides a row of zeros in place of 0
ROWS = 512  # rows to search at once, so that the temporaries stay in the processor's cache


# The two values of a byte, low nibble first, as one number of 8 bytes: float32 [256, 2].
PAIRS = (
    np.stack([np.arange(256) & 0x0F, np.arange(256) >> 4], axis=1)
    .astype(np.float32)
    .view(np.complex64)[:, 0]
)


@dataclass(frozen=True, eq=False)
class BlockQuantized:
    """A quantised weight [N, K] in G = ceil(K / block) blocks per row.

    `packed` is MatMulNBits' input B: uint8 [N, G, block * bits / 8], the low nibble first. `scales`
    is float32 [N, G].
    """

    bits: int
    block: int
    shape: tuple[int, int]
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]

    @classmethod
    def of_values(
        cls,
        bits: int,
        shape: tuple[int, int],
        values: NDArray[np.uint8],
        scales: NDArray[np.float32],
    ) -> "BlockQuantized":
        """Pack `values` uint8 [N, G, block], one value per byte for any `bits`."""
        packed = values if bits == 8 else _nibbles(values)
        return cls(bits, values.shape[2], shape, packed, scales)

    @property
    def values(self) -> NDArray[np.uint8]:
        """The values, uint8 [N, G, block], one value per byte."""
        if self.bits == 8:
            return self.packed
        both = np.stack([self.packed & 0x0F, self.packed >> 4], axis=-1)  # (N, G, block / 2, 2)
        return both.reshape(*self.scales.shape, self.block)  # (N, G, block)

    @property
    def size(self) -> int:
        """Bytes that values and scales take in a file."""
        return self.packed.nbytes + self.scales.nbytes

    def dequantized(self) -> NDArray[np.float32]:
        """Return the weight [N, K] that the integers stand for."""
        if self.bits == 8:
            weight = self.packed.astype(np.float32)  # (N, G, block)
        else:  # both values of a byte by one lookup, which is faster than to unpack and to convert
            pairs = np.take(PAIRS, self.packed).view(np.float32)
            weight = pairs.reshape(*self.scales.shape, self.block)  # (N, G, block)
        weight -= np.float32(2 ** (self.bits - 1))
        weight *= self.scales[:, :, None]
        return np.ascontiguousarray(weight.reshape(self.shape[0], -1)[:, : self.shape[1]])


def whole_rows(weight: BlockQuantized) -> BlockQuantized:
    """Return a quantised weight, rounded once more: to 8 bits, in blocks as wide as its rows."""
    values = weight.dequantized()  # (N, K)
    scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), SMALLEST_ROW) / LARGEST  # (N, 1)
    values /= scales
    integers = np.rint(values, out=values).astype(np.int8).view(np.uint8) ^ np.uint8(0x80)
    return BlockQuantized.of_values(8, weight.shape, integers[:, None], scales)


def _nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two values per byte along the last axis, of even size, the first in the low half."""
    return values[..., 0::2] | (values[..., 1::2] << np.uint8(4))


def round_to_nearest(weight: Tensor, bits: int, block: int) -> BlockQuantized:
    """Round each value of `weight` float [N, K] independently, on the best grid of its block."""
    rows, width = weight.shape
    blocks = pad(weight.detach().float(), (0, -width % block)).view(
        rows, -1, block
    )  # (N, G, block)
    pieces = []
    for piece in blocks.split(ROWS):
        scale = fit_grid(piece, bits)
        values = round_on_grid(piece, scale, bits).to(torch.uint8)
        pieces.append((values, scale[..., 0]))
    values, scale = (torch.cat(part) for part in zip(*pieces, strict=True))
    return from_grid(bits, (rows, width), values, scale)


def from_grid(bits: int, shape: tuple[int, int], values: Tensor, scale: Tensor) -> BlockQuantized:
    """Return a `BlockQuantized` of uint8 `values` [N, G, block] and float32 `scale` [N, G]."""
    return BlockQuantized.of_values(bits, shape, values.numpy(), scale.contiguous().numpy())


def round_on_grid(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return the nearest values 0 ... 2^bits - 1, as floats, for float32 `weight` [..., block]."""
    return (weight / scale).round().add(2 ** (bits - 1)).clamp(0, 2**bits - 1)


def fit_grid(weight: Tensor, bits: int) -> Tensor:
    """Return the scales, float32 [..., 1], for blocks `weight` float32 [..., block].

    Several scales are tried. Each one gives integers d. The best scale for these integers has the
    closed form sum(w d) / sum(d d), with the squared error sum(w w) - sum(w d)^2 / sum(d d). The
    scale with the least error wins. This is the search of llama.cpp's `make_qx_quants`, without
    its weights.

    The grid runs from -2^(bits - 1) to 2^(bits - 1) - 1. Its longer side always holds the
    block's extreme value, so a scale may be negative (as in llama.cpp's Q4_0).
    """
    lowest, highest = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    extreme = torch.where(-lowest > highest, lowest, highest)
    base = -extreme / 2 ** (bits - 1)
    base = torch.where(base == 0, 1.0, base)  # a block of zeros
    return _best_scale(weight, base, bits)


def _best_scale(weight: Tensor, base: Tensor, bits: int) -> Tensor:
    best_scale, best_gain = base, torch.zeros_like(base)
    for factor in SCALE_FACTORS[bits]:
        steps = round_on_grid(weight, base * factor, bits)  # (..., block)
        steps -= 2 ** (bits - 1)
        product = (weight * steps).sum(-1, keepdim=True)
        square = steps.square_().sum(-1, keepdim=True).clamp_(min=1.0)
        gain = product.square() / square  # sum(w w) minus the squared error
        better = gain > best_gain
        best_scale = torch.where(better, product / square, best_scale)
        best_gain = torch.where(better, gain, best_gain)
    return best_scale
