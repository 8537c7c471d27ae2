"""The second operator of the seam between model and exporter: attention over a source text.

An encoder attends to its own text, and a decoder to what the encoder made of it. Nothing is cached
or rotated here, and every token sees the whole source. The body is the reference in PyTorch; it has
no gradient, because training uses the plain path of the model.
"""

import torch
from torch import Tensor

__all__ = ["source_attention"]


@torch.library.custom_op("edgegpt::source_attention", mutates_args=())
def source_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source_len: Tensor,
    bias: Tensor | None = None,
    *,
    n_head: int,
    scale: float,
) -> Tensor:
    """Attend from rows of queries to the sources that they belong to.

    Args:
        q: float [G * F, T, H * D], the queries of F rows for each of G sources. The rows of one
            source lie side by side, and are handled as if they were more tokens of one row, so
            that keys and values need not be repeated for each beam.
        k: float [G, H, N, D], keys of the sources; places from source_len on may hold any values
            that are finite.
        v: float [G, H, N, D], values of the sources.
        source_len: int64 [G], tokens of each source, at least 1.
        bias: float [1, H, T, N], added to the scores of each row; None: nothing is. Only if F is 1.
        n_head: H, the number of heads.
        scale: factor on the scores.

    Returns:
        The output [G * F, T, H * D].
    """
    sources, _, length, width = k.shape
    queries = q.reshape(sources, -1, n_head, width).transpose(1, 2)  # (G, H, F * T, D)
    scores = (queries @ k.transpose(2, 3)) * scale  # (G, H, F * T, N)
    if bias is not None:
        scores = scores + bias
    beyond = torch.arange(length, device=q.device) >= source_len[:, None]  # (G, N)
    scores = scores.masked_fill(beyond[:, None, None], float("-inf"))
    out = scores.softmax(dim=-1) @ v  # (G, H, F * T, D)
    return out.transpose(1, 2).reshape(q.shape)  # (G * F, T, H * D)


@source_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    source_len: Tensor,
    bias: Tensor | None = None,
    *,
    n_head: int,
    scale: float,
) -> Tensor:
    """Return an empty tensor of the right shape, for torch.export."""
    return torch.empty_like(q)
