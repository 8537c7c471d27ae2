"""Whole numbers of other libraries, such as numpy's, as Python's own."""

from dataclasses import fields, replace
from numbers import Integral
from typing import Any, TypeVar

__all__ = ["plain", "whole"]

Record = TypeVar("Record")


def whole(value: Any) -> Any:
    """Return a whole number as an int, and any other value, such as a bool, as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def plain(record: Record) -> Record:
    """Return a frozen dataclass with its whole numbers as ints."""
    own: Any = record
    found = {one.name: getattr(own, one.name) for one in fields(own)}
    changed = {name: whole(value) for name, value in found.items() if whole(value) is not value}
    return replace(own, **changed) if changed else record
