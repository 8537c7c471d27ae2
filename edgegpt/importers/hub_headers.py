"""A model on the Hub as `--check` looks at it: settings, index and headers, but no weights."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegpt.runtime.progress import Progress, silent

from ..errors import CheckpointError
from .hub import download, explained, name_of, repository_of
from .huggingface import open_folder, read_json
from .source import Source
from .tensors import DTYPES, WEIGHT_FILES, shard_names

__all__ = ["HeadersOnly", "open_headers"]


class HeadersOnly:
    """The tensors of safetensors files on the Hub, whose values are not here.

    Args:
        tensors: file, type and shape of each tensor, by name.
    """

    def __init__(self, tensors: Mapping[str, tuple[str, str, tuple[int, ...]]]) -> None:
        self._tensors = tensors
        self.shapes = {name: shape for name, (_, _, shape) in tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        found = self._tensors[name][1]
        if found not in DTYPES:
            raise CheckpointError(
                f"{self.place(name)}: {name} is of type {found}; import reads {', '.join(DTYPES)}"
            )
        return DTYPES[found]

    def read(self, name: str) -> Tensor:
        """Raise an error: the values are still on the Hub."""
        raise CheckpointError(f"{self.place(name)}: only its header was read, not {name}")

    def place(self, name: str) -> str:
        """Return the file on the Hub that holds the tensor."""
        return self._tensors[name][0]


def open_headers(hub_id: str, revision: str | None, progress: Progress = silent) -> Source:
    """Return a model on the Hub, for a look at it: a few kB are downloaded, but no weights.

    Weights that are in the cache already are opened there.

    Raises:
        CheckpointError: as `download`, and if the weights are pickled, or a header is damaged.
    """
    folder = download(hub_id, revision, weights=False, progress=progress)
    if not folder.is_dir():
        raise CheckpointError(
            f"{hub_id}: a GGUF file is looked at when it is here; import downloads it"
        )
    name = name_of(hub_id, folder)
    files = _weight_files(folder)
    if all((folder / file).exists() for file in files):
        return open_folder(folder, name)
    tensors: dict[str, tuple[str, str, tuple[int, ...]]] = {}
    for done, file in enumerate(files):
        progress("reading headers", done, len(files))
        tensors |= _header(hub_id, file, folder.name)
    path = folder / "config.json"
    return Source(name, read_json(path), str(path), HeadersOnly(tensors), folder)
