"""Tables of positions that families compute: sines, then cosines, each in its own half."""

import math

import torch
from torch import Tensor

from .settings import SourceSettings

__all__ = ["even_sines", "paper_sines", "within_reach"]

BASE = 10000.0
LONGEST = 1 << 16  # the table is not in the file, so that no header contradicts a damaged setting


def paper_sines(shape: tuple[int, ...]) -> Tensor:
    """Return the table [positions, width] of Marian and PEGASUS.

    The angles are those of Vaswani et al. 2017, section 3.5, computed in float64; all sines come
    before all cosines.
    """
    positions, width = shape
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angles = torch.arange(positions).double()[:, None] / BASE ** (pairs / width)  # (P, pairs)
    cosines = angles[:, : width // 2].cos()
    return torch.cat([angles.sin(), cosines], dim=1).float()  # (P, width)


def even_sines(shape: tuple[int, ...], first: int) -> Tensor:
    """Return the table [positions, width] of M2M100 and XGLM, from the position `first` on.

    The angles are those of tensor2tensor (Vaswani et al. 2018), in even steps of the logarithm
    down to 1 / 10000, computed in float32. An odd width ends in zeros.
    """
    positions, width = shape
    half = width // 2
    steps = torch.arange(half).float() * -(math.log(BASE) / (half - 1))
    angles = torch.arange(first, positions + first).float()[:, None] * steps.exp()  # (P, half)
    table = torch.zeros(positions, width)
    table[:, : 2 * half] = torch.cat([angles.sin(), angles.cos()], dim=1)
    return table


def within_reach(source: SourceSettings, positions: int, width: int) -> None:
    """Refuse sizes for which no table can be computed."""
    if width < 4:
        raise source.error(f"d_model is {width}: sines of two frequencies need 4")
    if positions > LONGEST:
        raise source.error(
            f"max_position_embeddings is {positions}, which cannot be right; import computes up "
            f"to {LONGEST} positions"
        )
