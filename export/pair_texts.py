"""The pairs on which an export of an encoder-decoder measures.

A checkpoint may bring held-out pairs. For one that brings none, the topics of Python's `help` are
the sources, cut into pieces, and the model itself writes the targets.
"""

from collections.abc import Sequence

import torch

from edgegpt.checkpoint import PAIRS_NAME, Checkpoint
from edgegpt.errors import CheckpointError, InvalidInputError
from edgegpt.runtime.bundle.usage import SourceUsage, Usage
from edgegpt.runtime.text.pairs import parse_pairs
from edgegpt.runtime.text.tokenizer import Tokenizer

from .golden.decoding import guess
from .paired import EncodedPair
from .reader import Attending
from .texts import HELD_OUT, tokenizer_of, topics_text

__all__ = ["held_out_pairs", "source_tokenizer_of"]

OWN_PAIRS, OWN_SOURCE, OWN_TARGET = 64, 32, 24  # pairs, and ids of each side, without held-out text
SEED = 20260101


def source_tokenizer_of(source: Checkpoint) -> Tokenizer | None:
    """Return the tokenizer of the checkpoint's sources, if it has one."""
    if source.source_tokenizer_json is None:
        return tokenizer_of(source)
    return Tokenizer(source.source_tokenizer_json, source.config.encoder.vocab_size)


def held_out_pairs(source: Checkpoint) -> list[EncodedPair]:
    """Return pairs that the model was not trained on, as the model reads and writes them.

    Those that are too long for the model are cut.
    """
    usage = source.usage or Usage()
    sources, targets = source_tokenizer_of(source), tokenizer_of(source)
    if source.pairs is None or sources is None or targets is None:
        return _own_pairs(source, usage, sources)
    around = (usage.source or SourceUsage()).around
    end = usage.end_ids[:1]
    config = source.config
    try:
        encoded = [
            (around(sources.encode(one)), [*usage.start_ids, *targets.encode(other), *end])
            for one, other in parse_pairs(source.pairs, PAIRS_NAME)
        ]
    except InvalidInputError as error:
        told = f"the checkpoint's {PAIRS_NAME} does not fit: {error}"
        raise CheckpointError(told) from error
    longest, most = config.encoder.block_size, config.decoder.block_size
    return [(one[:longest], other[:most]) for one, other in encoded]


def _own_pairs(source: Checkpoint, usage: Usage, tokenizer: Tokenizer | None) -> list[EncodedPair]:
    """Return pieces of the topics and what the model writes for them."""
    config, start = source.config, list(usage.start_ids) or [0]
    length = min(OWN_SOURCE, config.encoder.block_size)
    around = (usage.source or SourceUsage()).around
    pieces = _pieces(tokenizer, config.encoder.vocab_size, length)
    sources = [around(piece)[: config.encoder.block_size] for piece in pieces]
    steps = min(OWN_TARGET, config.decoder.block_size - len(start) + 1)
    written = guess(Attending(source.model, sources), [start] * len(sources), steps)
    return [(one, [*start, *other]) for one, other in zip(sources, written, strict=True)]


def _pieces(tokenizer: Tokenizer | None, vocab_size: int, length: int) -> list[list[int]]:
    """Return pieces of different length of the topics, or of random ids."""
    ids: Sequence[int] = ()
    if tokenizer is not None:
        try:
            ids = tokenizer.encode(topics_text(HELD_OUT))
        except InvalidInputError:  # a tokenizer of characters lacks some of these
            ids = ()
    if len(ids) < OWN_PAIRS * length:
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(vocab_size, (OWN_PAIRS * length,), generator=generator).tolist()
    return [
        list(ids[number * length : number * length + 1 + (number * 7) % length])
        for number in range(OWN_PAIRS)
    ]
