"""Keep some of the pairs of a file for validation."""

import hashlib

from edgegpt.runtime.text.pairs import Pair, PairFile
from edgegpt.runtime.text.split import TRAIN_FRACTION

from ..errors import DataError

__all__ = ["MOST_VALIDATION_PAIRS", "split_pairs"]

MOST_VALIDATION_PAIRS = 10_000  # they take time at each evaluation


def split_pairs(file: PairFile) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs for training, and about a tenth of them, but not too many, for validation.

    A hash of a pair decides, so that neither the order of the lines nor their repetition matters:
    equal pairs are on the same side. Validation has each of its pairs once.
    """
    hashes = {pair: _hash(pair) for pair in file.pairs}
    if len(hashes) < 2:
        raise DataError(
            f"{file.name} has one pair only, and both training and validation need some: add "
            f"pairs, or give a file of pairs for validation"
        )
    count = min(len(hashes) - int(len(hashes) * TRAIN_FRACTION), MOST_VALIDATION_PAIRS)
    limit = sorted(hashes.values())[count]
    train = [pair for pair in file.pairs if hashes[pair] >= limit]
    validation = [pair for pair, number in hashes.items() if number < limit]
    return train, validation


def _hash(pair: Pair) -> bytes:
    return hashlib.sha256("\t".join(pair).encode()).digest()
