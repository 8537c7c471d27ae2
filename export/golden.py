"""Make the golden vectors: PyTorch's results in float32, on the plain path without a cache.

The exported path is the cached one, so the comparison also shows a mistake in the cache operator.
Prompts are cut from the checkpoint's held-out text. Without one, the model writes its own text.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.model import GPT
from edgegpt.runtime.bundle.golden import Continuation, Golden, Prompt, TokenizerSample, Top
from edgegpt.runtime.text.tokenizer import Tokenizer

from .quantization import own_windows

__all__ = ["MAX_COVERED_VOCABULARY", "make_golden", "quality_windows"]

STEPS = 64  # of the greedy continuations
MAX_COVERED_VOCABULARY = 4096  # up to here, every token id occurs in a prompt
KEPT = 64  # best logits kept per position, for larger vocabularies
OWN_LENGTH = 256  # tokens per window of a text that the model writes itself
QUALITY_TOKENS = 2048  # most tokens of held-out text in the golden file of a quantised model


def make_golden(
    model: GPT, tokenizer: Tokenizer | None = None, held_out: str | None = None
) -> Golden:
    """Return the golden vectors of a model in eval mode and float32.

    Args:
        model: the model.
        tokenizer: its tokenizer, if it has one.
        held_out: a text that the model was not trained on. If it is None or shorter than two
            blocks, the model writes its own text.
    """
    block = model.config.block_size
    text = tokenizer.encode(held_out) if tokenizer and held_out else []
    if len(text) < 2 * block:
        text = _own_text(model, 2 * block)
    lengths = sorted({1, min(2, block), max(1, block // 2), max(1, block - 1), block})
    prompts = [_cut(text, index, length) for index, length in enumerate(lengths)]
    prompts += _remaining_ids(model, prompts)

    steps = min(STEPS, max(1, block // 2))
    row_lengths = [1, min(7, block - steps + 1), block // 2 or 1, block - steps + 1]
    rows = [_cut(text, index + 1, length) for index, length in enumerate(row_lengths)]
    # The last of the `steps` new tokens is never fed. The longest row then just fills the block.
    rows = [row[: block - steps + 1] for row in rows]
    chunked = _cut(text, len(lengths), block)
    return Golden(
        prefill=[_prompt(model, ids) for ids in prompts],
        chunked=_prompt(model, chunked),
        chunk_sizes=_chunk_sizes(block),
        ragged=[_prompt(model, ids) for ids in rows],
        continuations=[_continue(model, ids, steps) for ids in rows],
        tokenizer=_sample(tokenizer, text) if tokenizer else None,
    )


def quality_windows(reference: GPT, windows: Tensor) -> list[Prompt]:
    """Return the first few of `windows` int64 [N, T + 1] with the float32 model's logits."""
    count = max(1, QUALITY_TOKENS // (windows.shape[1] - 1))
    prompts = []
    for window in windows[:count]:
        with torch.no_grad():
            logits, top = _kept(reference(window[None, :-1])[0])
        prompts.append(Prompt(window.numpy(), logits, top))
    return prompts


def _sample(tokenizer: Tokenizer, ids: list[int]) -> TokenizerSample:
    """Return the text of `ids`, its encoding, and the decoding of the whole vocabulary."""
    text = tokenizer.decode(ids)
    vocabulary = tokenizer.decode(list(range(tokenizer.vocab_size)))
    return TokenizerSample(text, np.array(tokenizer.encode(text), dtype=np.int64), vocabulary)


def _chunk_sizes(block: int) -> list[int]:
    """Return several piece sizes, among them 1, that add up to the block."""
    sizes, left = [], block
    for size in (block // 2, 1, block // 8, 3):
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
    if model.config.vocab_size > MAX_COVERED_VOCABULARY:
        return []
    missing = sorted(set(range(model.config.vocab_size)).difference(*map(set, prompts)))
    block = model.config.block_size
    return [missing[start : start + block] for start in range(0, len(missing), block)]


@torch.no_grad()
def _prompt(model: GPT, ids: list[int]) -> Prompt:
    logits, top = _kept(model(torch.tensor([ids]))[0])  # (T, V)
    return Prompt(np.array(ids, dtype=np.int64), logits, top)


def _kept(logits: Tensor) -> tuple[NDArray[np.float32], Top | None]:
    """Return all logits [N, V], or, for a large vocabulary, the best ones [N, K] and their ids."""
    size = logits.shape[-1]
    if size <= MAX_COVERED_VOCABULARY:
        return logits.numpy(), None
    best = logits.topk(KEPT, dim=-1)
    kind = np.uint16 if size <= np.iinfo(np.uint16).max + 1 else np.int32
    top = Top(best.indices.numpy().astype(kind), logits.logsumexp(dim=-1).numpy())
    return best.values.numpy(), top


@torch.no_grad()
def _continue(model: GPT, ids: list[int], steps: int) -> Continuation:
    """Decode greedily on the plain path.

    The cached path guesses the tokens because it is fast. One pass of the plain path over the whole
    text then gives the right tokens. Guessing starts again after the first wrong guess.
    """
    chosen: list[int] = []
    while True:
        chosen += _guess(model, ids + chosen, steps - len(chosen))
        logits = model(torch.tensor([ids + chosen[:-1]]))[0, len(ids) - 1 :]  # (steps, V)
        right = logits.argmax(dim=-1).tolist()
        if right == chosen:
            break
        wrong = next(n for n in range(steps) if right[n] != chosen[n])
        chosen = right[: wrong + 1]
    best = logits.topk(min(2, logits.shape[1]), dim=-1).values
    margins = best[:, 0] - best[:, -1]  # (steps,)
    kept, top = _kept(logits)
    return Continuation(np.array(chosen, dtype=np.int64), kept, margins.numpy(), top)


@torch.no_grad()
def _guess(model: GPT, ids: list[int], count: int) -> list[int]:
    """Return `count` greedy tokens after `ids`, decoded with the cache."""
    cache = model.empty_cache(1, model.config.block_size)
    fresh, done = ids, 0
    tokens: list[int] = []
    while len(tokens) < count:
        last = torch.tensor([[len(fresh) - 1]])
        logits, cache = model.forward_cached(
            torch.tensor([fresh]), torch.tensor([done]), last, cache
        )
        done += len(fresh)
        fresh = [int(logits.argmax())]
        tokens += fresh
    return tokens


def _own_text(model: GPT, length: int) -> list[int]:
    """Return `length` ids that the model itself writes: windows of one batch, concatenated."""
    width = min(OWN_LENGTH, model.config.block_size)
    ids: list[int] = own_windows(model, -(-length // width), width).flatten().tolist()
    return ids[:length]
