"""The weights of a checkpoint from elsewhere: shapes from the headers, values one by one."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

__all__ = [
    "WEIGHT_FILES",
    "PickledTensors",
    "SafeTensors",
    "Tensors",
    "exact_dtype",
    "read_pickle",
    "shard_names",
    "tensors_of_folder",
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
        try:
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                if name in self.shapes:
                    raise CheckpointError(f"{path} repeats {name}, which another file holds, too")
                self.shapes[name] = tuple(part.get_shape())
                self._dtypes[name] = part.get_dtype()
                self._files[name] = (path, file)
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        except (SafetensorError, OSError) as error:
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


class PickledTensors:
    """The tensors of files that `torch.save` wrote."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self._tensors, self._path = tensors, path
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        found = self._tensors[name].dtype
        if found not in DTYPES.values():
            raise CheckpointError(
                f"{self._path}: {name} is of type {found}; import reads float32, float16 and "
                f"bfloat16"
            )
        return found

    def read(self, name: str) -> Tensor:
        """Return the tensor."""
        return self._tensors[name]

    def place(self, name: str) -> str:
        """Return the path of the file."""
        return str(self._path)


def read_pickle(path: Path) -> Any:
    """Return the content of a file that `torch.save` wrote; tensors stay in the file if they can.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds more than data.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of PyTorch before 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no file at {path}") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, which could run code, or is not a PyTorch file. Save "
            f"only the state dict: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # the type of torch.load's error depends on the damage
        raise CheckpointError(f"{path} is not a readable PyTorch file: {error}") from error


def tensors_of_folder(folder: Path) -> Tensors:
    """Return the weights of a Hugging Face folder: safetensors if there are any, else pickled."""
    paths = weight_paths(folder)
    return SafeTensors(paths) if paths[0].suffix == ".safetensors" else _pickled(paths)


def weight_paths(folder: Path) -> list[Path]:
    """Return the files with the weights of a Hugging Face folder.

    Raises:
        CheckpointError: if there are none, or if an index names one that is missing.
    """
    for single, index in WEIGHT_FILES:
        if (folder / index).exists():
            return _shards(folder, folder / index)
        if (folder / single).exists():
            return [folder / single]
    raise CheckpointError(
        f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin, and no index"
    )


def shard_names(index: Path) -> list[str]:
    """Return the files that an index names; they have to be in its folder.

    Raises:
        CheckpointError: if `index` is no index, or names a place outside its folder.
    """
    try:
        document = json.loads(index.read_bytes())
        names = set(document["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weight files: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise CheckpointError(f"{index} names {name!r:.80}, which is not a file of its folder")
    return sorted(names)


def _shards(folder: Path, index: Path) -> list[Path]:
    names = shard_names(index)
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is missing: {folder / name}")
    return [folder / name for name in names]


def _pickled(paths: list[Path]) -> PickledTensors:
    tensors: dict[str, Tensor] = {}
    for path in paths:
        content = read_pickle(path)
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
        ):
            raise CheckpointError(f"{path} holds no state dict (names with tensors)")
        tensors |= content
    return PickledTensors(tensors, paths[0])
