"""Golden vectors of an encoder-decoder: prompts of its decoder, each with a source."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.golden import Golden, Prompt
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.text.tokenizer import Tokenizer

from ..past import record_past
from ..quantization import Yardstick
from ..reader import Attending
from ..texts import is_large
from .beams import golden_beams
from .decoding import STEPS, STEPS_OF_LARGE, decode, row_lengths
from .prompts import (
    COVERED,
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

__all__ = ["make_pair_golden", "quality_pairs"]

Ids = Sequence[int]
QUALITY_TOKENS = 2048  # most tokens of held-out targets in the golden file of a quantised model
ROWS_FROM = 64  # pairs among which the rows of a batch are chosen


def make_pair_golden(
    model: Seq2Seq,
    pairs: Sequence[tuple[Ids, Ids]],
    tokenizer: Tokenizer | None = None,
    source_tokenizer: Tokenizer | None = None,
    usage: Usage | None = None,
) -> Golden:
    """Return the golden vectors of a model in eval mode and float32.

    Args:
        model: the model.
        pairs: held-out pairs, the ids of each source and target, starts and ends included. They
            are repeated if they are too short for the prompts.
        tokenizer: the tokenizer of targets, if there is one.
        source_tokenizer: the tokenizer of sources, if it is another one.
        usage: how texts begin and end, for searches.
    """
    decoder, encoder = model.config.decoder, model.config.encoder
    block, pieces = decoder.block_size, pieces_of(decoder.block_size)
    sources, targets = (_stream(side, 2 * COVERED) for side in zip(*pairs, strict=True))
    prompts = [cut(targets, index, length) for index, length in enumerate(prompt_lengths(block))]
    prompts += remaining_ids(decoder.vocab_size, block, prompts)
    read = [
        cut(sources, index, length)
        for index, length in enumerate(prompt_lengths(encoder.block_size, COVERED))
    ]
    read += remaining_ids(encoder.vocab_size, encoder.block_size, read)
    count = max(len(prompts), len(read))
    sizes, steps = row_lengths(block, STEPS_OF_LARGE if is_large(model) else STEPS)
    chosen = _of_different_length(pairs[:ROWS_FROM], len(sizes))
    row_sources = [list(pairs[number][0][: encoder.block_size]) for number in chosen]
    rows = [
        _stream([target for _, target in [*pairs[number:], *pairs]], length)[:length]
        for number, length in zip(chosen, sizes, strict=True)
    ]
    alone = [Attending(model, [source]) for source in row_sources]
    decoded = decode(Attending(model, row_sources), alone, rows, steps)
    recorded = record_past(alone[-1], targets)
    far = far_prompts(alone[-1], targets, recorded, far_places(block))
    return Golden(
        prefill=[
            _sourced(model, prompts[index % len(prompts)], read[index % len(read)])
            for index in range(count)
        ],
        chunked=_sourced(model, cut(targets, len(prompts), pieces), row_sources[-1]),
        chunk_sizes=chunk_sizes(pieces),
        ragged=[_with(row, source) for (row, _), source in zip(decoded, row_sources, strict=True)],
        continuations=[added for _, added in decoded],
        far=[_with(own, row_sources[-1]) for own in far],
        past=recorded,
        beams=golden_beams(model, row_sources, usage or Usage()),
        tokenizer=sample(tokenizer, _written(targets, tokenizer)) if tokenizer else None,
        source_tokenizer=(
            sample(source_tokenizer, _written(sources, source_tokenizer))
            if source_tokenizer
            else None
        ),
    )


def quality_pairs(yardstick: Yardstick) -> list[Prompt]:
    """Return the first few of the yardstick's pairs with the float32 model's logits."""
    prompts, left = [], QUALITY_TOKENS
    streams = yardstick.reference.logits(yardstick.stream)
    for (source, target), logits in zip(yardstick.texts, streams, strict=True):
        prompts.append(_with(Prompt(np.array(target, dtype=np.int64), *kept(logits)), source))
        left -= len(target) - 1
        if left <= 0:
            break
    return prompts


def _stream(parts: Sequence[Ids], length: int) -> list[int]:
    """Return the ids of all parts, one after another, again and again up to `length` at least."""
    ids = list(chain.from_iterable(parts))
    return ids * -(-length // len(ids))


def _of_different_length(pairs: Sequence[tuple[Ids, Ids]], count: int) -> list[int]:
    """Return the numbers of `count` pairs, from the shortest source to the longest."""
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][0]))
    last = len(order) - 1
    return [order[round(place * last / (count - 1))] for place in range(count)]


def _sourced(model: Seq2Seq, ids: list[int], source: list[int]) -> Prompt:
    return _with(prompt(Attending(model, [source]), ids), source)


def _with(own: Prompt, source: Ids) -> Prompt:
    return replace(own, source=np.array(source, dtype=np.int64))


def _written(ids: Ids, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that are text: neither special nor padding of the embedding."""
    return [
        token
        for token in ids
        if token < tokenizer.vocab_size and token not in tokenizer.special_ids
    ]
