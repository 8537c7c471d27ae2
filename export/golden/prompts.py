"""Golden prompts: which ids they have, where they lie, and which of their logits are kept."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.runtime.bundle.golden import Prompt, Top

from ..past import Recorded, cut_past, torch_past
from ..reader import Reader, exact_logits

__all__ = [
    "COVERED",
    "LONGEST",
    "chunk_sizes",
    "cut",
    "far_places",
    "far_prompts",
    "kept",
    "pieces_of",
    "prompt",
    "prompt_lengths",
    "remaining_ids",
]

COVERED = 512  # up to here, prompts hold every position of a block, and every id of a vocabulary
LONGEST = 255  # tokens of a prompt that is fed at once
PIECES = 129  # tokens of the prompt that is fed in pieces, in a block that is not covered
MAX_KEPT_VOCABULARY = 4096  # up to here, all logits are kept
KEPT = 64  # best logits kept per position, for larger vocabularies
KEPT_AT_ONCE = 64  # positions; bounds the memory for copies of their logits


def prompt_lengths(block: int, longest: int = LONGEST) -> list[int]:
    """Return the lengths of prompts for a block: the usual borders, at most `longest`."""
    usual = (1, min(2, block), block // 2 or 1, max(1, block - 1), block)
    return sorted({min(length, longest) for length in usual})


def pieces_of(block: int) -> int:
    """Return how many tokens the prompt that is fed in pieces has."""
    return block if block <= COVERED else PIECES


def far_places(block: int, boundaries: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Return where the far prompts lie: (slots before it, number of its tokens), in order.

    There is one in the middle of the block, longer than a short step of the engines, and one that
    ends in its last slot. Two tokens before and two from each of `boundaries` on are fed, too: the
    positions at which a rule of the model changes, such as the width of a window, from which on the
    first token is out of sight.
    """
    wanted = [(block // 2, 24), (block - 3, 3), *((place - 2, 4) for place in boundaries)]
    starts = [(max(0, start), length) for start, length in wanted if start < block]
    return sorted({(start, min(length, block - start)) for start, length in starts})


def chunk_sizes(length: int) -> list[int]:
    """Return several piece sizes, among them 1, that add up to the length."""
    sizes, left = [], length
    for size in (length // 2, 1, length // 8, 3):
        if 0 < size < left:
            sizes.append(size)
            left -= size
    return [*sizes, left]


def cut(text: list[int], index: int, length: int) -> list[int]:
    """Return `length` ids of `text`, from a different place for each index."""
    start = (index * 97) % (len(text) - length + 1)
    return text[start : start + length]


def remaining_ids(vocab_size: int, block: int, prompts: list[list[int]]) -> list[list[int]]:
    """Return prompts with the ids that `prompts` lack; none if the vocabulary is too large."""
    if vocab_size > COVERED:
        return []
    missing = sorted(set(range(vocab_size)).difference(*map(set, prompts)))
    length = min(block, LONGEST)
    return [missing[start : start + length] for start in range(0, len(missing), length)]


def prompt(model: Reader, ids: list[int]) -> Prompt:
    """Return ids with the logits of the plain path."""
    logits, top = kept(exact_logits(model, torch.tensor([ids]))[0])  # (T, V)
    return Prompt(np.array(ids, dtype=np.int64), logits, top)


def far_prompts(
    model: Reader, text: list[int], recorded: Recorded, places: list[tuple[int, int]]
) -> list[Prompt]:
    """Return prompts at `places`, each after its own length of past, on the plain path."""
    past, prompts = torch_past(recorded, max(start for start, _ in places)), []
    for index, (start, length) in enumerate(places):
        ids = cut(text, index, length)
        logits, top = kept(exact_logits(model, torch.tensor([ids]), cut_past(past, start))[0])
        prompts.append(Prompt(np.array(ids, dtype=np.int64), logits, top, start))
    return prompts


def kept(logits: Tensor) -> tuple[NDArray[np.float32], Top | None]:
    """Return all logits [N, V], or, for a large vocabulary, the best ones [N, K] and their ids."""
    size = logits.shape[-1]
    if size <= MAX_KEPT_VOCABULARY:
        return logits.float().numpy(), None
    parts = logits.split(KEPT_AT_ONCE)
    best = [part.topk(KEPT, dim=-1) for part in parts]
    kind = np.uint16 if size <= np.iinfo(np.uint16).max + 1 else np.int32
    ids: NDArray[np.integer[Any]] = torch.cat([part.indices for part in best]).numpy().astype(kind)
    total = torch.cat([part.logsumexp(dim=-1) for part in parts])
    values = torch.cat([part.values for part in best])  # (N, K)
    return values.float().numpy(), Top(ids, total.float().numpy())
