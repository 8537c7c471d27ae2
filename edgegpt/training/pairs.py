"""Read pairs of source and target, and keep some of them for validation.

A file of pairs is UTF-8 text; each line is a source, a tab and a target. Translation and
summarisation differ only in what these texts are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgegpt.runtime.text.split import TRAIN_FRACTION

from ..errors import DataError

__all__ = ["MOST_VALIDATION_PAIRS", "Pair", "PairFile", "load_pairs", "split_pairs"]

MOST_VALIDATION_PAIRS = 10_000  # they take time at each evaluation
FORM = "each line must be a source, a tab and a target"

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairFile:
    """Pairs of source and target, the name of their file, and the SHA-256 of its bytes."""

    name: str
    pairs: list[Pair]
    sha256: str


def load_pairs(path: Path) -> PairFile:
    r"""Read a file of pairs. Lines end with \n or \r\n; the last one may do without.

    Raises:
        DataError: if there is no such file, or one of its lines is no pair.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file of pairs at {path}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; pairs come from one file, where {FORM}") from None
    except OSError as error:
        raise DataError(f"cannot read the pairs {path}: {error.strerror}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line} is not UTF-8 text") from error
    text = text.removeprefix("\ufeff").removesuffix("\n")  # some editors mark a file as UTF-8
    if not text:
        raise DataError(f"{path} has no pairs; {FORM}")
    # Not splitlines: it also cuts at characters that may be part of a text, such as U+2028.
    lines = enumerate(text.split("\n"), start=1)
    pairs = [_pair(line.removesuffix("\r"), path, number) for number, line in lines]
    return PairFile(path.name, pairs, hashlib.sha256(raw).hexdigest())


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


def _pair(line: str, path: Path, number: int) -> Pair:
    where = f"{path} line {number}"
    if not line:
        raise DataError(f"{where} is empty; {FORM}")
    columns = line.split("\t")
    if len(columns) == 1:
        raise DataError(f"{where} has no tab; {FORM}")
    if len(columns) > 2:
        raise DataError(f"{where} has {len(columns)} columns; {FORM}")
    for name, text in zip(("source", "target"), columns, strict=True):
        if not text.strip():
            raise DataError(f"{where} has an empty {name}")
    source, target = columns
    return source, target


def _hash(pair: Pair) -> bytes:
    return hashlib.sha256("\t".join(pair).encode()).digest()
