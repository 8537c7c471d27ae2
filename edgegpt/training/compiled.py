"""The forward and backward pass as fused kernels, by torch.compile, if a compiler works here."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import EdgeGPTError

__all__ = ["compiled"]


def compiled(
    model: nn.Module, wanted: bool | None, device: torch.device, note: Callable[[str], None]
) -> nn.Module:
    """Return `model` with its passes compiled at their first call, or `model` itself.

    PyTorch needs a C compiler for that, and Python's headers on a GPU. If `wanted` is None, the
    model is compiled on CUDA, where that is much faster, and only if the compiler works.

    Raises:
        EdgeGPTError: if it is wanted and does not work.
    """
    if wanted is False or (wanted is None and device.type != "cuda"):
        return model
    why_not = _obstacle(device)
    if why_not is None:
        whole = torch.compile(model)
        assert isinstance(whole, nn.Module)
        return whole
    if wanted:
        raise EdgeGPTError(f"--compile does not work here: {why_not}; leave it out")
    note(f"not compiled, which would be faster: {why_not}")
    return model


def _obstacle(device: torch.device) -> str | None:
    """Return what PyTorch says if it cannot compile the smallest function, else None."""
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except Exception as error:  # of torch, Triton, subprocess or the compiler's own kind
        said = [line for line in str(error).splitlines() if line.strip()]
        return said[0].strip() if said else type(error).__name__
    return None


def _twice(x: Tensor) -> Tensor:
    return x + x
