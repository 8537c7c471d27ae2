"""Positions other than rotary ones: sines, and biases by distance."""

import math

import torch
from torch import Tensor

__all__ = ["distance_buckets", "sinusoidal_table"]


def sinusoidal_table(length: int, width: int) -> Tensor:
    """Return the position encodings [length, width] of Vaswani et al. 2017, section 3.5.

    Sine and cosine alternate; pair i turns by 10000 ** (-2i / width) radians a position.
    """
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angle = torch.arange(length).double()[:, None] * 10000.0 ** (-pairs / width)  # (length, pairs)
    table = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)  # (length, 2 * pairs)
    return table[:, :width].float()


def distance_buckets(length: int, buckets: int, farthest: int, *, causal: bool) -> Tensor:
    """Return the bucket of each distance, key minus query, int64 [2 * length - 1].

    Entry i is that of the distance i - (length - 1). Half of the buckets are for single distances;
    the others grow with the logarithm, up to `farthest` (Raffel et al. 2020, "T5", section 2.1, and
    its implementation, which computes the logarithms in float32). If the attention is not causal,
    one half of all buckets is for keys after the query.
    """
    distance = torch.arange(1 - length, length)
    side = torch.zeros_like(distance)
    if causal:
        back = (-distance).clamp(min=0)
    else:
        buckets //= 2
        side, back = (distance > 0) * buckets, distance.abs()
    exact = buckets // 2
    far = torch.log(back.clamp(min=1).float() / exact) / math.log(farthest / exact)
    grown = (exact + (far * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(back < exact, back, grown)
