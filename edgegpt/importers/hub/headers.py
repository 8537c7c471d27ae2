"""A model on the Hub as `--check` looks at it: settings, index and headers, but no weights."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from huggingface_hub import HfApi
from torch import Tensor

from edgegpt.runtime.progress import Progress, silent

from ...errors import CheckpointError
from ...user_files import is_file, read_json
from ..huggingface import open_folder
from ..names import check_name
from ..source import Source
from ..tensors import DTYPES, WEIGHT_FILES, exact_dtype, shard_names, weight_paths
from .download import download
from .ids import HubId
from .problems import explained

__all__ = ["HeadersOnly", "open_headers"]

Entry = tuple[str, str, tuple[int, ...]]  # file, type and shape of a tensor


class HeadersOnly:
    """The tensors of safetensors files on the Hub, whose values are not here.

    Args:
        tensors: file, type and shape of each tensor, by name.
    """

    def __init__(self, tensors: Mapping[str, Entry]) -> None:
        self._tensors = tensors
        self.shapes = {name: shape for name, (_, _, shape) in tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        return exact_dtype(self._tensors[name][1], name, self.place(name))

    def read(self, name: str) -> Tensor:
        """Raise an error: the values are still on the Hub."""
        raise CheckpointError(f"{self.place(name)}: only its header was read, not {name}")

    def place(self, name: str) -> str:
        """Return the file on the Hub that holds the tensor."""
        return self._tensors[name][0]


def open_headers(hub_id: HubId, revision: str | None, progress: Progress = silent) -> Source:
    """Return a model on the Hub, for a look at it: the small files are downloaded, but no weights.

    Weights that are in the cache already are opened there.

    Raises:
        CheckpointError: as `download`, and if the weights are pickled or GGUF, whose shapes are not
            read from afar, or if a header is damaged.
    """
    if hub_id.file is not None:
        raise CheckpointError(f"{hub_id}: GGUF files are looked at here; import downloads it")
    folder = download(hub_id, revision, weights=False, progress=progress)
    name, path = hub_id.with_commit(folder), folder / "config.json"
    try:
        weight_paths(folder)
    except CheckpointError:  # some are not in the cache
        tensors = _headers(hub_id, folder, progress)
        return Source(name, read_json(path), str(path), tensors, folder)
    return open_folder(folder, name)


def _headers(hub_id: HubId, folder: Path, progress: Progress) -> HeadersOnly:
    single, index = WEIGHT_FILES[0]
    files = shard_names(folder / index) if is_file(folder / index) else [single]
    tensors: dict[str, Entry] = {}
    for done, file in enumerate(files):
        progress("reading headers", done, len(files))
        tensors |= _header(hub_id, file, folder.name)
    return HeadersOnly(tensors)


def _header(hub_id: HubId, file: str, commit: str) -> dict[str, Entry]:
    """Read the header of a safetensors file on the Hub, without the rest."""
    place, found = f"{hub_id}/{file}", {}
    with explained(hub_id, commit):
        api, repository = HfApi(), hub_id.repository
        if not api.file_exists(repository, file, revision=commit):
            raise CheckpointError(
                f"{hub_id} has no {file}; the shapes of pickled weights are known only when they "
                f"are here: import downloads them"
            )
        header = api.parse_safetensors_file_metadata(repository, file, revision=commit)
        for name, tensor in header.tensors.items():
            check_name(name, place)
            shape, (begin, end) = tuple(tensor.shape), tensor.data_offsets
            known = DTYPES.get(tensor.dtype)
            if known is not None and end - begin != prod(shape) * known.itemsize:
                raise CheckpointError(f"{place}: the size of {name} is not that of its shape")
            found[name] = (place, str(tensor.dtype), shape)
    return found
