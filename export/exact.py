"""PyTorch in float64, with float32 weights: a reference without an error of its own.

A float32 forward pass has about the error that the proof allows for a graph: 5.6e-6 of the largest
logit for a small T5, and 1.1e-5 between two right ones of three billion parameters.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

__all__ = ["Exact"]

AT_ONCE = 2**24  # values of a weight that are in float64 at a time; 128 MB


class Exact(TorchFunctionMode):
    """Within this context PyTorch's functions take float32 tensors as float64.

    A model's weights stay as they are, and are converted when a function reads them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`; of large weights convert no more than is needed."""
        if func is F.embedding:
            return F.embedding(*args, **(kwargs or {})).double()
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*_doubled(args), **_doubled(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias for x [..., I] and weight [O, I], in float64 [..., O]."""
    x, rows = x.double(), max(1, AT_ONCE // weight.shape[1])
    parts = [F.linear(x, part.double()) for part in weight.split(rows)]  # (..., rows) each
    y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return y if bias is None else y + bias.double()


def _doubled(values: Any) -> Any:
    def converted(one: Tensor) -> Tensor:
        return one.double() if one.dtype == torch.float32 else one

    return tree_map_only(Tensor, converted, values)
