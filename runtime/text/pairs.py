"""Read pairs of source and target.

A file of pairs is UTF-8 text; each line is a source, a tab and a target. Translation and
summarisation differ only in what these texts are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..inputs import read_input

__all__ = ["Pair", "PairFile", "load_pairs", "parse_pairs"]

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
        raw = read_input(path)
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
    return PairFile(path.name, parse_pairs(text, str(path)), hashlib.sha256(raw).hexdigest())


def parse_pairs(text: str, where: str) -> list[Pair]:
    """Return the pairs of a file's text; `where` is the file, for messages.

    Raises:
        DataError: if there are none, or a line is no pair.
    """
    text = text.removeprefix("\ufeff").removesuffix("\n")  # some editors mark a file as UTF-8
    if not text:
        raise DataError(f"{where} has no pairs; {FORM}")
    # Not splitlines: it also cuts at characters that may be part of a text, such as U+2028.
    lines = enumerate(text.split("\n"), start=1)
    return [_pair(line.removesuffix("\r"), f"{where} line {number}") for number, line in lines]


def _pair(line: str, where: str) -> Pair:
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
