"""GPTQ: round one column after another, and correct each error in the columns after it.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (arXiv 2210.17323), algorithm 1: columns in their natural order, inverse Hessian as a
Cholesky factor, updates of far columns gathered into one matrix product. The grid of a block is
fitted to the corrected weights when its first column is reached (section 4, "grouping").
"""

import torch
from torch import Tensor

from .blocks import BlockQuantized, fit_grid, from_grid, round_on_grid

__all__ = ["gptq", "inverse_factor"]

DAMPING = 0.01  # share of the mean diagonal that is added to the diagonal; the paper's value


def gptq(weight: Tensor, factor: Tensor, bits: int, block: int) -> BlockQuantized:
    """Quantise `weight` [N, K] so that its products with the calibration inputs change little.

    Args:
        weight: float [N, K].
        factor: float32 [K, K], the `inverse_factor` of the sum of x x^T over the layer's inputs
            x [K].
        bits: 4 or 8.
        block: width of a block along K.
    """
    rows, width = weight.shape
    n_blocks = -(-width // block)
    left = weight.detach().float().clone()  # (N, K), not rounded yet, corrected so far
    values = torch.empty(rows, n_blocks * block, dtype=torch.uint8)
    scales, middle = torch.empty(rows, n_blocks), 2 ** (bits - 1)
    for index in range(n_blocks):
        start, end = index * block, min((index + 1) * block, width)
        scale = fit_grid(left[:, start:end], bits)
        values[:, start : start + block] = middle  # the padding stands for 0
        rounded, errors = _round_columns(
            left[:, start:end], factor[start:end, start:end], scale, bits
        )
        values[:, start:end] = rounded
        scales[:, index] = scale[:, 0]
        left[:, end:] -= errors @ factor[start:end, end:]
    blocks = values.view(rows, n_blocks, block)
    return from_grid(bits, (rows, width), blocks, scales)


def _round_columns(
    weight: Tensor, factor: Tensor, scale: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Return the values [N, B] of one block's columns, and each column's error [N, B].

    The error is divided by the factor's diagonal, which is the form that corrects later columns.
    """
    columns = weight.T.contiguous()  # (B, N), so that each column is contiguous
    values, errors = torch.empty_like(columns), torch.empty_like(columns)
    scale = scale[:, 0].contiguous()
    for index, column in enumerate(columns):
        values[index] = round_on_grid(column, scale, bits)
        rounded = (values[index] - 2 ** (bits - 1)) * scale
        errors[index] = (column - rounded) / factor[index, index]
        columns[index + 1 :] -= torch.outer(factor[index, index + 1 :], errors[index])
    return values.T, errors.T


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor U of the damped Hessian's inverse, U^T U, float32 [K, K].

    `hessian` is float64 [K, K]. Damped, it is R R^T with the upper R = U^-1, and turned around by
    both axes, R is its ordinary lower factor. This takes half the work of an inverse with two
    factorisations.

    An input that is always zero would make the Hessian singular; damping prevents that. If all
    inputs are zero, a diagonal of `DAMPING` is added, which gives plain rounding.
    """
    mean = hessian.diagonal().mean().item() or 1.0
    damped = hessian.double().flip(0, 1)
    damped.diagonal().add_(DAMPING * mean)
    upper = torch.linalg.cholesky(damped).flip(0, 1).float()
    one = torch.eye(len(upper))
    factor: Tensor = torch.linalg.solve_triangular(upper, one, upper=True)
    return factor
