"""The texts on which an export measures, and for which GPTQ rounds.

A checkpoint may bring a held-out text. For one that brings none but has a tokenizer, the topics of
Python's `help` serve: 460 KB of English prose that is part of every CPython.
"""

from pydoc_data.topics import topics

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import CheckpointError, InvalidInputError
from edgegpt.model import GPT, Seq2Seq, Seq2SeqConfig
from edgegpt.runtime.text.tokenizer import Tokenizer

__all__ = [
    "HELD_OUT",
    "calibration_ids",
    "held_out_ids",
    "is_large",
    "tokenizer_of",
    "topics_text",
    "window_length",
]

LARGE = 2**26  # parameters
LARGE_WINDOW = 512  # tokens
HELD_OUT, CALIBRATION = slice(0, 2**16), slice(2**16, 2**18)  # characters of the topics


def tokenizer_of(source: Checkpoint) -> Tokenizer | None:
    """Return the checkpoint's tokenizer, if it has one."""
    if source.tokenizer_json is None:
        return None
    config = source.config
    rows = (config.decoder if isinstance(config, Seq2SeqConfig) else config).vocab_size
    return Tokenizer(source.tokenizer_json, rows)


def held_out_ids(source: Checkpoint) -> list[int]:
    """Return a text that the model was not trained on: the checkpoint's own, or the topics.

    The list is empty if the checkpoint has no tokenizer, or one that cannot write the topics.
    """
    tokenizer = tokenizer_of(source)
    if tokenizer is None or source.held_out is None:
        return _topics(source, HELD_OUT)
    try:
        return tokenizer.encode(source.held_out)
    except InvalidInputError as error:
        told = f"the checkpoint's held_out.txt does not fit: {error}"
        raise CheckpointError(told) from error


def calibration_ids(source: Checkpoint) -> list[int]:
    """Return a part of the topics that is not held out.

    The list is empty if `held_out_ids` has no use for the topics: a model that was trained here
    writes a better text itself.
    """
    return [] if source.held_out is not None else _topics(source, CALIBRATION)


def topics_text(part: slice) -> str:
    """Return some characters of the topics."""
    return "\n".join(topics[name] for name in sorted(topics))[part]


def is_large(model: GPT | Seq2Seq) -> bool:
    """Return whether long texts would take minutes: an export then works with shorter ones."""
    return model.parameter_count() > LARGE


def window_length(model: GPT) -> int:
    """Return the number of tokens in a window of text: a block, or less for a large model."""
    block = model.config.block_size
    return min(block, LARGE_WINDOW) if is_large(model) else block


def _topics(source: Checkpoint, part: slice) -> list[int]:
    """Return a part of the topics; an empty list if the tokenizer cannot write it, or is none."""
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        return []
    try:
        return tokenizer.encode(topics_text(part))
    except InvalidInputError:  # a tokenizer of characters lacks some of these
        return []
