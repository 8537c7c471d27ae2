"""What another Python made of bundles of all precisions, and whether this one makes the same."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["PRECISIONS", "Tried", "the_same"]

PRECISIONS = ("float32", "float16", "int8", "int4")


@dataclass(frozen=True)
class Tried:
    """What `trial.py` told, by precision."""

    onnxruntime: str
    processor: str
    shown: dict[str, int]
    by_precision: dict[str, dict[str, Any]] = field(repr=False)


def the_same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether two machines wrote the same texts, each up to the first near tie of both."""
    both = zip(found["texts"], found["ties"], wanted["texts"], wanted["ties"], strict=True)
    for text, tie, other, other_tie in both:
        end = min(len(text) if one is None else one for one in (tie, other_tie))
        if text[:end] != other[:end] or len(text) != len(other):
            return False
    return bool(found["texts"])
