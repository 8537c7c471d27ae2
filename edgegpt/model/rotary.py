"""Rotary position embeddings (Su et al. 2021, "RoFormer")."""

import torch
from torch import Tensor

__all__ = ["rotary_table", "rotate"]


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin [length, D/2] of RoPE (Su et al. 2021, eq. 15), computed in float64."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (D/2,)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, D/2)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` [..., T, D] by `cos` and `sin` [..., T, D/2]; the halves pair up, as in Llama."""
    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
