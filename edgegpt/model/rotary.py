"""Rotary position embeddings (Su et al. 2021, "RoFormer")."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["frequencies", "rotary_table", "rotate"]


def frequencies(theta: float, width: int) -> tuple[float, ...]:
    """Return the angles per position, [width / 2], of RoPE (Su et al. 2021, eq. 15), in float32."""
    powers = torch.arange(0, width, 2, dtype=torch.int64).float() / width  # (width / 2)
    return tuple((1.0 / theta**powers).tolist())


def rotary_table(
    length: int, angles: Sequence[float], factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return cos and sin [length, R], times `factor`, for the R `angles` of one position.

    The products are rounded to float32, as in transformers: checkpoints were trained with these.
    At position 32,768 the exact angles would differ by 1e-3.
    """
    angle = torch.arange(length).float()[:, None] * torch.tensor(angles)  # (length, R)
    return angle.cos() * factor, angle.sin() * factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2 * R values of `x` [..., T, D] by `cos` and `sin` [..., T, R].

    The halves of the rotated part pair up, as in Llama.
    """
    half = cos.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
