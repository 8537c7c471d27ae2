"""Greedy continuations: what decoding adds to some rows, on the plain path."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgegpt.runtime.bundle.golden import Continuation, Prompt
from edgegpt.runtime.generation.prefill import pad

from ..reader import Reader, exact_logits
from .prompts import kept

__all__ = ["STEPS", "STEPS_OF_LARGE", "decode", "guess", "row_lengths"]

STEPS, STEPS_OF_LARGE = 64, 16  # of the greedy continuations


def row_lengths(block: int, most: int) -> tuple[list[int], int]:
    """Return the lengths of four rows, and how many steps, `most` at most, follow them.

    Rows and steps have room for twice as many tokens as there are steps, or for a block. The last
    new token is never fed, so the longest row just fills the room.
    """
    room = min(block, 2 * most)
    steps = min(most, max(1, room // 2))
    longest = room - steps + 1
    return [1, min(7, longest), min(room // 2 or 1, longest), longest], steps


def decode(
    batch: Reader, alone: Sequence[Reader], rows: list[list[int]], steps: int
) -> list[tuple[Prompt, Continuation]]:
    """Return each row as a prompt, and what greedy decoding on the plain path adds to it.

    The cached path guesses the tokens of all rows as one batch, because it is fast. One pass of the
    plain path over each whole text then gives the right tokens.

    Args:
        batch: reads all rows.
        alone: reads each row by itself.
        rows: ids of each row.
        steps: tokens to add.
    """
    guesses = guess(batch, rows, steps)
    return [
        _corrected(reader, ids, chosen)
        for reader, ids, chosen in zip(alone, rows, guesses, strict=True)
    ]


def _corrected(model: Reader, ids: list[int], chosen: list[int]) -> tuple[Prompt, Continuation]:
    """Return a row and its continuation, for which `chosen` is a guess.

    Guessing starts again after the first wrong token.
    """
    first = len(ids) - 1  # the position whose logits choose the first token
    while True:
        logits = exact_logits(model, torch.tensor([ids + chosen[:-1]]))[0]  # (T + steps - 1, V)
        right = logits[first:].argmax(dim=-1).tolist()
        if right == chosen:
            break
        wrong = next(n for n, token in enumerate(right) if token != chosen[n])
        known = right[: wrong + 1]
        chosen = known + guess(model, [ids + known], len(chosen) - len(known))[0]
    best = logits[first:].topk(min(2, logits.shape[1]), dim=-1).values
    margins = (best[:, 0] - best[:, -1]).float()  # (steps,)
    prompt = Prompt(np.array(ids, dtype=np.int64), *kept(logits[: len(ids)]))
    values, top = kept(logits[first:])
    added = Continuation(np.array(chosen, dtype=np.int64), values, margins.numpy(), top)
    return prompt, added


@torch.no_grad()
def guess(model: Reader, rows: list[list[int]], count: int) -> list[list[int]]:
    """Return `count` greedy tokens after each row, decoded with the cache as one batch."""
    ids, lengths = (torch.from_numpy(array) for array in pad(rows))  # (B, T), (B,)
    cache = model.empty_cache(len(rows), ids.shape[1] + count)
    past_len, last = torch.zeros_like(lengths), lengths - 1
    tokens: list[Tensor] = []
    while len(tokens) < count:
        logits, cache = model.forward_cached(ids, past_len, last[:, None], cache)
        past_len, last = lengths + len(tokens), torch.zeros_like(lengths)
        ids = logits[:, 0].argmax(dim=-1, keepdim=True)  # (B, 1)
        tokens.append(ids)
    return torch.cat(tokens, dim=1).tolist() if tokens else [[] for _ in rows]
