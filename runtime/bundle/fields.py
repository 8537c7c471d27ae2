"""Take values out of a JSON document, and check each before it is trusted.

A value that is missing or of the wrong type raises a `BundleError` that names the place, `where`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from ..errors import BundleError

__all__ = [
    "LARGEST",
    "PLAIN_NAME",
    "finite",
    "kind_of",
    "only",
    "plain",
    "positive",
    "take",
    "text",
    "whole",
    "word",
]

# Letters, digits, dots, dashes and underscores, not beginning with a dot: safe as part of a path.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
LONGEST_NAME = 80
LARGEST = 2**63 - 1  # of a whole number: the largest that ONNX and file sizes allow

T = TypeVar("T")
W = TypeVar("W", bound=str)

NAMES = {
    str: "a string",
    float: "a number",
    int: "a whole number",
    dict: "a table",
    list: "a list",
}


def take(table: Any, key: str, kind: type[T], where: str) -> T:
    """Return table[key], which must be of type `kind`; a bool is not an int."""
    if not isinstance(table, dict):
        raise BundleError(f"{where} is not a table")
    if key not in table:
        raise BundleError(f"{where} lacks {key!r}")
    value = table[key]
    if type(value) is not kind:
        raise BundleError(f"{where}: {key} is {kind_of(value)}, not {NAMES[kind]}")
    return value


def only(table: Any, keys: Sequence[str], where: str) -> None:
    """Refuse a table that lacks one of the `keys`, or has another one."""
    if not isinstance(table, dict):
        raise BundleError(f"{where} is {kind_of(table)}, not a table")
    for key in keys:
        if key not in table:
            raise BundleError(f"{where} lacks {key!r}")
    for key in table:
        if key not in keys:
            raise BundleError(f"{where} has the unknown key {key!r:.60}")


def finite(value: float) -> bool:
    """Return whether a number is finite, and small enough to be a float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def positive(table: Any, key: str, where: str) -> int:
    """Return table[key], which must be a whole number of at least 1."""
    value = take(table, key, int, where)
    if not 1 <= value <= LARGEST:
        raise BundleError(f"{where}: {key} is {value!r:.30}; it must be from 1 to 2**63 - 1")
    return value


def plain(table: Any, key: str, where: str) -> str:
    """Return table[key], which must be a plain name: safe to show, and as part of a file name."""
    value = take(table, key, str, where)
    if not PLAIN_NAME.fullmatch(value) or len(value) > LONGEST_NAME:
        raise BundleError(
            f"{where}: {key} is {value[:40]!r}; it must be up to {LONGEST_NAME} letters, digits, "
            f"dots, dashes and underscores, with no dot in front"
        )
    return value


def word(table: Any, key: str, known: tuple[W, ...], where: str) -> W:
    """Return table[key], which must be one of the `known` words."""
    value = take(table, key, str, where)
    for one in known:
        if one == value:
            return one
    raise BundleError(f"{where}: {key} is {value[:40]!r}; known are: {', '.join(known)}")


def whole(value: Any, where: str) -> int:
    """Return a value that must be a whole number of at least 0."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        found = f"{value!r:.30}" if type(value) is int else kind_of(value)
        raise BundleError(f"{where} has {found} where a whole number from 0 to 2**63 - 1 belongs")
    return value


def text(value: Any, where: str) -> str:
    """Return a value that must be a string."""
    if type(value) is not str:
        raise BundleError(f"{where} has {kind_of(value)} where a string belongs")
    return value


def kind_of(value: Any) -> str:
    """Return the kind of a value, or a short form of it, for messages."""
    return repr(value)[:40] if type(value) is float else NAMES.get(type(value), repr(value)[:40])
