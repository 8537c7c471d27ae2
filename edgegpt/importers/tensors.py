"""The weights of a checkpoint from elsewhere: shapes from the headers, values one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import CheckpointError
from ..mapped_tensors import open_tensors
from ..user_files import is_file, read_json
from .names import check_name

__all__ = [
    "DTYPES",
    "WEIGHT_FILES",
    "SafeTensors",
    "Tensors",
    "TensorsTwice",
    "exact_dtype",
    "shard_names",
    "weight_map",
    "weight_paths",
]

# The types of tensors in safetensors files that can be read exactly.
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# The weights of a Hugging Face folder, best first: one file, or an index that names several.
WEIGHT_FILES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def exact_dtype(found: str, name: str, place: str) -> torch.dtype:
    """Return the type that a safetensors file calls `found`; `name` and `place` are for messages.

    Raises:
        CheckpointError: if it is not a type of weights.
    """
    if found not in DTYPES:
        raise CheckpointError(
            f"{place}: {name} is of type {found}; import reads {', '.join(DTYPES)}"
        )
    return DTYPES[found]


class Tensors(Protocol):
    """Tensors by name, in the names and layouts of their source."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor, known without reading its values."""

    def dtype(self, name: str) -> torch.dtype:
        """Return the type in which the tensor's values can be kept exactly."""

    def read(self, name: str) -> Tensor:
        """Return the tensor; it may lie in the file, so it must not be written to."""

    def place(self, name: str) -> str:
        """Return the file that holds the tensor, for messages."""


class SafeTensors:
    """The tensors of safetensors files, which stay in the files until they are read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, tuple[Path, Any]] = {}
        self._dtypes: dict[str, str] = {}
        for path in paths:
            self._open(path)

    def _open(self, path: Path) -> None:
        if not is_file(path):
            raise CheckpointError(f"{path} is missing")
        file = open_tensors(path)
        try:
            for name in file.keys():  # noqa: SIM118 - not a dict
                check_name(name, path)
                part = file.get_slice(name)
                if name in self.shapes:
                    raise CheckpointError(f"{path} repeats {name}, which another file holds, too")
                self.shapes[name] = tuple(part.get_shape())
                self._dtypes[name] = part.get_dtype()
                self._files[name] = (path, file)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or cut off: {error}") from error

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        return exact_dtype(self._dtypes[name], name, self.place(name))

    def read(self, name: str) -> Tensor:
        """Return the tensor, which stays in the file."""
        tensor: Tensor = self._files[name][1].get_tensor(name)
        return tensor

    def place(self, name: str) -> str:
        """Return the path of the tensor's file."""
        return str(self._files[name][0])


class TensorsTwice:
    """The tensors of `first`, each of which `second` repeats; if one differs, it is refused."""

    def __init__(self, first: Tensors, second: Tensors) -> None:
        self._first, self._second = first, second
        self.shapes = first.shapes
        self.dtype, self.place = first.dtype, first.place

    def read(self, name: str) -> Tensor:
        """Return the tensor.

        Raises:
            CheckpointError: if it is not the same in both.
        """
        tensor, again = self._first.read(name), self._second.read(name)
        if tensor.dtype != again.dtype or not torch.equal(tensor, again):
            raise CheckpointError(
                f"{self.place(name)} and {self._second.place(name)} differ in {name}; remove the "
                f"weights that are not meant"
            )
        return tensor


def weight_paths(folder: Path) -> list[Path]:
    """Return the files with the weights of a Hugging Face folder; as transformers, one before many.

    Raises:
        CheckpointError: if there are none, or if an index names one that is missing.
    """
    for single, index in WEIGHT_FILES:
        if is_file(folder / single):
            return [folder / single]
        if is_file(folder / index):
            return _shards(folder, folder / index)
    raise CheckpointError(
        f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin, and no index"
    )


def shard_names(index: Path) -> list[str]:
    """Return the files that an index names, see `weight_map`."""
    return sorted(set(weight_map(index).values()))


def weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor by an index; the files have to be in its folder.

    Raises:
        CheckpointError: if `index` is no index, or names a place outside its folder.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index} is not an index of weight files: it has no weight_map")
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise CheckpointError(f"{index} names {name!r:.80}, which is not a file of its folder")
        check_name(name, index)
    return found


def _shards(folder: Path, index: Path) -> list[Path]:
    names = shard_names(index)
    for name in names:
        if not is_file(folder / name):
            raise CheckpointError(f"{index} names {name}, which is missing: {folder / name}")
    return [folder / name for name in names]
