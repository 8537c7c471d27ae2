"""A bench's result as a JSON file: all raw measurements, and a summary for readers.

A file is read back for comparisons. It may come from anywhere, so every field is checked.
"""

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InvalidInputError
from ..files import write_file
from .result import BENCH_VERSION, BenchResult

__all__ = ["read_result", "to_json", "write_result"]

LARGEST_FILE = 64 << 20  # bytes
# Real counts, times and numbers of bytes are 0 or between these, so that ratios of them are finite.
# Comparing also refuses NaN and inf.
LEAST_NUMBER, LARGEST_NUMBER = 1e-12, 2.0**63


def to_json(result: BenchResult) -> str:
    """Return the result as JSON text."""
    summary = [
        {
            "batch": cell.batch,
            "depth": cell.depth,
            **{metric.key: result.spread(cell, metric)._asdict() for metric in result.metrics},
        }
        for cell in result.cells
    ]
    body = {
        "bench_version": BENCH_VERSION,
        "summary": summary,
        "bandwidth": result.bandwidth,
        **asdict(result),
    }
    return json.dumps(body, indent=1) + "\n"


def write_result(result: BenchResult, path: Path) -> None:
    """Write the JSON text to `path`, atomically."""
    try:
        write_file(path, to_json(result).encode())
    except OSError as error:
        raise InvalidInputError(f"cannot write the result {path}: {error.strerror}") from error


def read_result(path: Path) -> BenchResult:
    """Read a file that `write_result` wrote; refuse files of another version or kind."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise InvalidInputError(f"{path} is too large to be a file of edgegpt bench")
        body: Any = json.loads(text)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not a JSON file of edgegpt bench: {error}") from error
    version = body.get("bench_version") if isinstance(body, dict) else None
    if version is None:
        raise InvalidInputError(f"{path} is not a file of edgegpt bench: it has no bench_version")
    if type(version) is not int or version != BENCH_VERSION:
        raise InvalidInputError(
            f"{path} has bench_version {version!r:.20}, and this edgegpt compares version "
            f"{BENCH_VERSION} only: measure again with this one"
        )
    try:
        result: BenchResult = _decode(BenchResult, body, "the file")
        return result
    except InvalidInputError as error:
        raise InvalidInputError(f"{path} is damaged: {error}") from error


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Convert `value`, as read from JSON, to `kind`, the type of a field of `BenchResult`."""
    if isinstance(kind, type) and is_dataclass(kind) and type(value) is dict:
        hints = get_type_hints(kind)
        own = {
            name: _decode(hints[name], _take(value, name, where), name)
            for name in _given(kind, value)
        }
        return kind(**own)
    if get_origin(kind) is UnionType:  # always a type and None
        return None if value is None else _decode(get_args(kind)[0], value, where)
    if get_origin(kind) is list and type(value) is list:
        return [_decode(get_args(kind)[0], part, where) for part in value]
    if get_origin(kind) is dict and type(value) is dict:
        return {name: _decode(get_args(kind)[1], part, where) for name, part in value.items()}
    if kind is str and type(value) is str:
        return value
    is_number = type(value) is kind or (kind is float and type(value) is int)
    if is_number and (value == 0 or LEAST_NUMBER < value < LARGEST_NUMBER):
        return kind(value)
    raise InvalidInputError(f"{where} is {value!r:.40}")


def _given(kind: Any, table: dict[str, Any]) -> list[str]:
    """Return the fields that a file must have, and those of the others that it has."""
    return [
        field.name
        for field in fields(kind)
        if (field.default is MISSING and field.default_factory is MISSING) or field.name in table
    ]


def _take(table: dict[str, Any], key: str, where: str) -> Any:
    if key not in table:
        raise InvalidInputError(f"{where} lacks {key!r}")
    return table[key]
