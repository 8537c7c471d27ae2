"""Reads a folder in the layout of Hugging Face: config.json, weights, tokenizer."""

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .source import Source
from .tensors import tensors_of_folder

__all__ = ["open_folder", "read_json"]

LARGEST_JSON = 64 * 2**20  # bytes; tokenizers reach 35 MB, settings a few kB


def open_folder(folder: Path, name: str | None = None) -> Source:
    """Return the checkpoint in `folder`; values of weights are read later, one by one.

    Raises:
        CheckpointError: if config.json or the weights are missing, damaged or cut off.
    """
    path = folder / "config.json"
    settings = read_json(path)
    return Source(
        name or folder.resolve().name, settings, str(path), tensors_of_folder(folder), folder
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes: not a settings file")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return document
