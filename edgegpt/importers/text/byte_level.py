"""Build a byte-level BPE tokenizer, the kind of GPT-2, from its vocabulary and merges."""

from collections.abc import Mapping

from tokenizers import AddedToken, Tokenizer, decoders

from .backend import bpe
from .splits import Split

__all__ = ["byte_level_tokenizer"]


def byte_level_tokenizer(
    vocabulary: Mapping[str, int],
    merges: list[tuple[str, str]],
    split: Split,
    added: Mapping[int, AddedToken],
    *,
    leading_space: bool = False,
) -> Tokenizer:
    """Return the tokenizer.

    Args:
        vocabulary: the id of each token, in GPT-2's printable form of bytes.
        merges: pairs of tokens, the first to be merged first.
        split: how a text is cut before merging.
        added: tokens that are found in a text as they are, by id; they get these ids, also where
            `vocabulary` lacks them.
        leading_space: whether a text is tokenized as if a space stood before it.

    Raises:
        CheckpointError: if vocabulary and merges do not fit each other.
    """
    tokenizer = Tokenizer(bpe(vocabulary, added, merges, ignore_merges=split.whole_words))
    normalizer = split.normalizer()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split.pre_tokenizer(leading_space=leading_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([added[number] for number in sorted(added)])
    return tokenizer
