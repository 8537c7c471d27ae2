"""Make the golden vectors: PyTorch's results in float32, on the plain path without a cache.

The exported path is the cached one, so the comparison also shows a mistake in the cache operator.
Prompts are cut from a held-out text. Without one, the model writes its own text.

The work does not grow with the block. Short blocks and small vocabularies are covered: the prompts
hold every position and every id. In longer blocks the prompts are short, and positions far into the
block are reached over a long past; see `far_places` and `proof.far_past`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.golden import Continuation, Golden, Prompt, TokenizerSample, Top
from edgegpt.runtime.generation.prefill import pad
from edgegpt.runtime.text.tokenizer import Tokenizer

from .past import Recorded, cut_past, record_past, torch_past
from .quantization import Yardstick, own_windows
from .texts import is_large

__all__ = ["far_places", "make_golden", "quality_windows"]

COVERED = 512  # up to here, prompts hold every position of a block, and every id of a vocabulary
LONGEST = 255  # tokens of a prompt that is fed at once
PIECES = 129  # tokens of the prompt that is fed in pieces, in a block that is not covered
STEPS, STEPS_OF_LARGE = 64, 16  # of the greedy continuations
MAX_KEPT_VOCABULARY = 4096  # up to here, all logits are kept
KEPT = 64  # best logits kept per position, for larger vocabularies
KEPT_AT_ONCE = 64  # positions; bounds the memory for copies of their logits
OWN_LENGTH = 16  # tokens per window of a text that the model writes itself
SAMPLE = 16384  # most ids of the text that the tokenizer is checked with
QUALITY_TOKENS = 2048  # most tokens of held-out text in the golden file of a quantised model


def make_golden(
    model: GPT,
    tokenizer: Tokenizer | None = None,
    held_out: Sequence[int] = (),
) -> Golden:
    """Return the golden vectors of a model in eval mode and float32.

    Args:
        model: the model.
        tokenizer: its tokenizer, if it has one.
        held_out: ids of a text that the model was not trained on. If it is too short, the model
            writes its own text.
    """
    block = model.config.block_size
    pieces = block if block <= COVERED else PIECES
    wanted = 2 * max(pieces, min(block, LONGEST))
    text = list(held_out) if len(held_out) >= wanted else _own_text(model, wanted)
    usual = (1, min(2, block), block // 2 or 1, max(1, block - 1), block)
    lengths = sorted({min(length, LONGEST) for length in usual})
    prompts = [_cut(text, index, length) for index, length in enumerate(lengths)]
    prompts += _remaining_ids(model, prompts)
    rows, steps = _rows(model, text)
    recorded = record_past(model, text)
    windows = {kind.window for kind in model.config.kinds if kind.window}
    decoded = _decode(model, rows, steps)
    return Golden(
        prefill=[_prompt(model, ids) for ids in prompts],
        chunked=_prompt(model, _cut(text, len(lengths), pieces)),
        chunk_sizes=_chunk_sizes(pieces),
        ragged=[prompt for prompt, _ in decoded],
        continuations=[added for _, added in decoded],
        far=_far_prompts(model, text, recorded, far_places(block, windows)),
        past=recorded,
        tokenizer=_sample(tokenizer, text[:SAMPLE]) if tokenizer else None,
    )


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


def quality_windows(yardstick: Yardstick) -> list[Prompt]:
    """Return the first few of the yardstick's windows with the float32 model's logits."""
    windows, prompts = yardstick.windows, []
    count = max(1, QUALITY_TOKENS // (windows.shape[1] - 1))
    for window, stream in zip(windows[:count], yardstick.stream, strict=False):
        logits = torch.cat([*yardstick.reference.logits(stream[None])])  # (T, V)
        prompts.append(Prompt(window.numpy(), *_kept(logits)))
    return prompts


def _sample(tokenizer: Tokenizer, ids: list[int]) -> TokenizerSample:
    """Return the text of `ids`, its encoding, and the decoding of the whole vocabulary.

    A model that writes the text itself may write what its tokenizer cannot read, such as the
    unknown token. Then as many of the readable ids as possible are kept.
    """
    if not _is_readable(tokenizer, ids):
        ids = [number for number in ids if _is_readable(tokenizer, [number])]
    while not _is_readable(tokenizer, ids):  # alone each can be read, but not side by side
        ids = ids[: len(ids) // 2]
    text = tokenizer.decode(ids)
    vocabulary = tokenizer.decode(list(range(tokenizer.vocab_size)))
    return TokenizerSample(text, np.array(tokenizer.encode(text), dtype=np.int64), vocabulary)


def _is_readable(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Return whether the text of some ids can be encoded."""
    try:
        tokenizer.encode(tokenizer.decode(ids))
    except InvalidInputError:
        return False
    return tokenizer.unknown_id not in ids


def _rows(model: GPT, text: list[int]) -> tuple[list[list[int]], int]:
    """Return four rows of different length, and how many steps are decoded after them.

    Rows and steps have room for twice as many tokens as there are steps, or for a block. The last
    new token is never fed, so the longest row just fills the room.
    """
    most = STEPS_OF_LARGE if is_large(model) else STEPS
    room = min(model.config.block_size, 2 * most)
    steps = min(most, max(1, room // 2))
    longest = room - steps + 1
    lengths = [1, min(7, longest), min(room // 2 or 1, longest), longest]
    return [_cut(text, index + 1, length) for index, length in enumerate(lengths)], steps


def _chunk_sizes(length: int) -> list[int]:
    """Return several piece sizes, among them 1, that add up to the length."""
    sizes, left = [], length
    for size in (length // 2, 1, length // 8, 3):
        if 0 < size < left:
            sizes.append(size)
            left -= size
    return [*sizes, left]


def _cut(text: list[int], index: int, length: int) -> list[int]:
    """Return `length` ids of `text`, from a different place for each index."""
    start = (index * 97) % (len(text) - length + 1)
    return text[start : start + length]


def _remaining_ids(model: GPT, prompts: list[list[int]]) -> list[list[int]]:
    """Return prompts with the ids that `prompts` lack; none if the vocabulary is too large."""
    if model.config.vocab_size > COVERED:
        return []
    missing = sorted(set(range(model.config.vocab_size)).difference(*map(set, prompts)))
    length = min(model.config.block_size, LONGEST)
    return [missing[start : start + length] for start in range(0, len(missing), length)]


@torch.no_grad()
def _prompt(model: GPT, ids: list[int]) -> Prompt:
    logits, top = _kept(model(torch.tensor([ids]))[0])  # (T, V)
    return Prompt(np.array(ids, dtype=np.int64), logits, top)


@torch.no_grad()
def _far_prompts(
    model: GPT, text: list[int], recorded: Recorded, places: list[tuple[int, int]]
) -> list[Prompt]:
    """Return prompts at `places`, each after its own length of past, on the plain path."""
    past, prompts = torch_past(recorded, max(start for start, _ in places)), []
    for index, (start, length) in enumerate(places):
        ids = _cut(text, index, length)
        logits, top = _kept(model(torch.tensor([ids]), cut_past(past, start))[0])
        prompts.append(Prompt(np.array(ids, dtype=np.int64), logits, top, start))
    return prompts


def _kept(logits: Tensor) -> tuple[NDArray[np.float32], Top | None]:
    """Return all logits [N, V], or, for a large vocabulary, the best ones [N, K] and their ids."""
    size = logits.shape[-1]
    if size <= MAX_KEPT_VOCABULARY:
        return logits.numpy(), None
    parts = logits.split(KEPT_AT_ONCE)
    best = [part.topk(KEPT, dim=-1) for part in parts]
    kind = np.uint16 if size <= np.iinfo(np.uint16).max + 1 else np.int32
    ids: NDArray[np.integer[Any]] = torch.cat([part.indices for part in best]).numpy().astype(kind)
    total = torch.cat([part.logsumexp(dim=-1) for part in parts])
    return torch.cat([part.values for part in best]).numpy(), Top(ids, total.numpy())


def _decode(model: GPT, rows: list[list[int]], steps: int) -> list[tuple[Prompt, Continuation]]:
    """Return each row as a prompt, and what greedy decoding on the plain path adds to it.

    The cached path guesses the tokens of all rows as one batch, because it is fast. One pass of the
    plain path over each whole text then gives the right tokens.
    """
    guesses = _guess(model, rows, steps)
    return [_corrected(model, ids, guess) for ids, guess in zip(rows, guesses, strict=True)]


@torch.no_grad()
def _corrected(model: GPT, ids: list[int], chosen: list[int]) -> tuple[Prompt, Continuation]:
    """Return a row and its continuation, for which `chosen` is a guess.

    Guessing starts again after the first wrong token.
    """
    first = len(ids) - 1  # the position whose logits choose the first token
    while True:
        logits = model(torch.tensor([ids + chosen[:-1]]))[0]  # (T + steps - 1, V)
        right = logits[first:].argmax(dim=-1).tolist()
        if right == chosen:
            break
        wrong = next(n for n, token in enumerate(right) if token != chosen[n])
        known = right[: wrong + 1]
        chosen = known + _guess(model, [ids + known], len(chosen) - len(known))[0]
    best = logits[first:].topk(min(2, logits.shape[1]), dim=-1).values
    margins = best[:, 0] - best[:, -1]  # (steps,)
    prompt = Prompt(np.array(ids, dtype=np.int64), *_kept(logits[: len(ids)]))
    kept, top = _kept(logits[first:])
    added = Continuation(np.array(chosen, dtype=np.int64), kept, margins.numpy(), top)
    return prompt, added


@torch.no_grad()
def _guess(model: GPT, rows: list[list[int]], count: int) -> list[list[int]]:
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


def _own_text(model: GPT, length: int) -> list[int]:
    """Return `length` ids that the model itself writes: windows of one batch, concatenated."""
    width = min(OWN_LENGTH, model.config.block_size)
    ids: list[int] = own_windows(model, -(-length // width), width).flatten().tolist()
    return ids[:length]
