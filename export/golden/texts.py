"""Golden vectors of a GPT. Prompts are cut from a held-out text, or from one that it writes."""

from collections.abc import Sequence

import torch

from edgegpt.model import GPT
from edgegpt.runtime.bundle.golden import Golden, Prompt
from edgegpt.runtime.text.tokenizer import Tokenizer

from ..past import record_past
from ..quantization import Yardstick, own_windows
from ..texts import is_large
from .decoding import STEPS, STEPS_OF_LARGE, decode, row_lengths
from .prompts import (
    LONGEST,
    chunk_sizes,
    cut,
    far_places,
    far_prompts,
    kept,
    pieces_of,
    prompt,
    prompt_lengths,
    remaining_ids,
)
from .sample import sample

__all__ = ["make_golden", "quality_windows"]

OWN_LENGTH = 16  # tokens per window of a text that the model writes itself
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
    block, vocab_size = model.config.block_size, model.config.vocab_size
    pieces = pieces_of(block)
    wanted = 2 * max(pieces, min(block, LONGEST))
    text = list(held_out) if len(held_out) >= wanted else _own_text(model, wanted)
    lengths = prompt_lengths(block)
    prompts = [cut(text, index, length) for index, length in enumerate(lengths)]
    prompts += remaining_ids(vocab_size, block, prompts)
    sizes, steps = row_lengths(block, STEPS_OF_LARGE if is_large(model) else STEPS)
    rows = [cut(text, index + 1, length) for index, length in enumerate(sizes)]
    recorded = record_past(model, text)
    windows = {kind.window for kind in model.config.kinds if kind.window}
    decoded = decode(model, [model] * len(rows), rows, steps)
    return Golden(
        prefill=[prompt(model, ids) for ids in prompts],
        chunked=prompt(model, cut(text, len(lengths), pieces)),
        chunk_sizes=chunk_sizes(pieces),
        ragged=[row for row, _ in decoded],
        continuations=[added for _, added in decoded],
        far=far_prompts(model, text, recorded, far_places(block, windows)),
        past=recorded,
        tokenizer=sample(tokenizer, text) if tokenizer else None,
    )


def quality_windows(yardstick: Yardstick) -> list[Prompt]:
    """Return the first few of the yardstick's windows with the float32 model's logits."""
    windows, prompts = yardstick.texts, []
    count = max(1, QUALITY_TOKENS // (windows.shape[1] - 1))
    for window, stream in zip(windows[:count], yardstick.stream, strict=False):
        logits = torch.cat([*yardstick.reference.logits(stream[None])])  # (T, V)
        prompts.append(Prompt(window.numpy(), *kept(logits)))
    return prompts


def _own_text(model: GPT, length: int) -> list[int]:
    """Return `length` ids that the model itself writes: windows of one batch, concatenated."""
    width = min(OWN_LENGTH, model.config.block_size)
    ids: list[int] = own_windows(model, -(-length // width), width).flatten().tolist()
    return ids[:length]
