"""Calibration texts, and what a text makes each Linear layer read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError, NumericalError
from edgegpt.model import GPT
from edgegpt.runtime.quantity import quantity

__all__ = [
    "cut_windows",
    "gram",
    "own_windows",
    "require_finite",
    "scored_windows",
    "squares",
    "summed_inputs",
]

OWN_WINDOWS = 32
OWN_LENGTH = 256
SEED = 0
STRIPE = 512  # rows of a Gram matrix that are computed at once


def cut_windows(ids: list[int], length: int) -> Tensor:
    """Return the full, non-overlapping windows of `ids`, int64 [N, length]."""
    if len(ids) < length:
        raise InvalidInputError(
            f"a text of {quantity(len(ids), 'token')} has no window of {length}; give a longer text"
        )
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)  # (N, length)


def scored_windows(ids: list[int], block: int) -> Tensor:
    """Return windows of `block` predictions each, int64 [N, block + 1].

    A window's last token is the first token of the next window, so each token is predicted once.
    """
    if len(ids) <= block:
        raise InvalidInputError(
            f"a text of {quantity(len(ids), 'token')} has no window of {block + 1}; "
            f"give a longer text"
        )
    return torch.tensor(ids).unfold(0, block + 1, block)  # (N, block + 1)


@torch.no_grad()
def own_windows(model: GPT, count: int = OWN_WINDOWS, length: int = OWN_LENGTH) -> Tensor:
    """Return windows that the model writes at temperature 1, int64 [count, length].

    `length` is limited to the block. The model's own text is close to its training text, and serves
    if there is no other text. All windows are written in one batch, with the cache, each from a
    random first token.

    Raises:
        NumericalError: for a weight with values that are not finite.
    """
    config = model.config
    for name, weight in model.named_parameters():
        require_finite(name, weight)
    length = min(length, config.block_size)
    cache = model.empty_cache(count, length)
    generator = torch.Generator().manual_seed(SEED)
    fresh = torch.randint(config.vocab_size, (count, 1), generator=generator)
    written, only = [fresh], torch.zeros(count, 1, dtype=torch.int64)
    for step in range(length - 1):
        logits, cache = model.forward_cached(fresh, torch.full((count,), step), only, cache)
        probabilities = logits[:, 0].softmax(-1)  # (count, V)
        fresh = torch.multinomial(probabilities, 1, generator=generator)
        written.append(fresh)
    return torch.cat(written, dim=1)


def require_finite(name: str, weight: Tensor) -> None:
    """Refuse a weight that has values that are not finite."""
    if not weight.isfinite().all():
        raise NumericalError(
            f"{name} holds values that are not finite: it cannot be quantised; train it again"
        )


@contextmanager
def summed_inputs(
    linears: dict[str, nn.Linear], measure: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the sum of `measure` over each layer's inputs [..., K], as long as the context lasts.

    The dictionary fills as the layers run; a layer that does not run has no entry.
    """
    sums: dict[str, Tensor] = {}

    def collect(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        found = measure(inputs[0])
        sums[name] = sums[name] + found if name in sums else found

    handles = [
        linear.register_forward_pre_hook(partial(collect, name)) for name, linear in linears.items()
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def gram(x: Tensor) -> Tensor:
    """Return the sum of x x^T over the rows of `x` float32 [..., K], float64 [K, K].

    It is symmetric, so that only stripes from the diagonal on are multiplied.
    """
    flat = x.reshape(-1, x.shape[-1])  # (rows, K)
    width = flat.shape[1]
    total = torch.empty(width, width, dtype=torch.float64)
    for start in range(0, width, STRIPE):
        end = min(start + STRIPE, width)
        total[start:end, start:] = flat[:, start:end].T @ flat[:, start:]
        total[end:, start:end] = total[start:end, end:].T
    return total


def squares(x: Tensor) -> Tensor:
    """Return the sum of the squares of each channel of `x` float32 [..., K], float64 [K]."""
    return x.double().square().flatten(0, -2).sum(dim=0)  # (K,)
