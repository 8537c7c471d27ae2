"""Translate with the model in PyTorch, to see how training goes. Users translate with a bundle."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..model import Seq2Seq
from .subword_tokenizer import END, PAD, START, encode_texts

__all__ = ["translate"]

ROWS = 64  # texts at once


def translate(
    model: Seq2Seq, source: Tokenizer, target: Tokenizer, texts: Sequence[str]
) -> list[str]:
    """Return the likeliest next token again and again, until the end or the model's longest text.

    A source that is too long for the model is cut.
    """
    encoded = encode_texts(source, texts).followed_by(END)
    longest = model.config.encoder.block_size
    order = sorted(range(len(texts)), key=lambda number: encoded.lengths[number].item())
    found = [""] * len(texts)
    was_training = model.training
    model.eval()
    for first in range(0, len(order), ROWS):
        chosen = order[first : first + ROWS]
        ids = [torch.from_numpy(encoded[number][:longest].astype("int64")) for number in chosen]
        rows = _greedy(model, ids)
        for number, row in zip(chosen, rows, strict=True):
            found[number] = target.decode(row, skip_special_tokens=False)
    model.train(was_training)
    return found


@torch.no_grad()
def _greedy(model: Seq2Seq, sources: list[Tensor]) -> list[list[int]]:
    """Return the ids that follow from each source, without start and end."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in sources], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=PAD)
    caches = [(cache, lengths) for cache in model.encode(padded.to(device), lengths)]
    count, steps = len(sources), model.config.decoder.block_size
    past = model.decoder.empty_cache(count, steps)
    fresh = torch.full((count, 1), START, device=device)
    only, found = torch.zeros_like(fresh), []
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    for step in range(steps):
        past_len = torch.full((count,), step, device=device)
        logits, past = model.decoder.forward_cached(fresh, past_len, only, past, caches)
        fresh = logits[:, 0].argmax(dim=-1, keepdim=True)  # (count, 1)
        found.append(fresh)
        ended |= fresh[:, 0] == END
        if ended.all():
            break
    return [_until_end(row) for row in torch.cat(found, dim=1).tolist()]


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END)] if END in ids else ids
