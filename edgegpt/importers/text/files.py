"""Read the small files of a source folder, bounded in size."""

import json
from pathlib import Path
from typing import Any

from ...errors import CheckpointError

__all__ = ["read_json", "read_text"]

# Bytes. The largest tokenizer.json known, Gemma 3's, has 33 million.
LARGEST = 128 * 2**20


def read_text(path: Path, largest: int = LARGEST) -> str | None:
    """Return the UTF-8 text of a file of at most `largest` bytes; None if there is no such file.

    Raises:
        CheckpointError: if the file is larger, is not UTF-8, or cannot be read.
    """
    try:
        if not path.is_file():
            return None
        size = path.stat().st_size
        if size > largest:
            raise CheckpointError(f"{path} has {size:,} bytes; at most {largest:,} are read")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file; an empty one if there is no such file."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} does not hold a table")
    return document
