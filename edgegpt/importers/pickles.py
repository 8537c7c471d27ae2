"""Files that `torch.save` wrote: read without running code, and checked against their sums."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..user_files import is_file
from .names import check_name
from .tensors import DTYPES

__all__ = ["PickledTensors", "read_pickle", "state_dict"]

ZIP = b"PK"  # PyTorch before 1.6 wrote a pickle alone
CHUNK = 1 << 22  # bytes to sum up at once
LONGEST_REASON = 200  # characters of what a library says


class PickledTensors:
    """The tensors of state dicts, each with its file."""

    def __init__(self, states: Mapping[Path, Mapping[str, Tensor]]) -> None:
        self._tensors: dict[str, tuple[Path, Tensor]] = {}
        for path, state in states.items():
            for name, tensor in state.items():
                if name in self._tensors:
                    raise CheckpointError(f"{path} repeats {name}, which another file holds, too")
                self._tensors[name] = (path, tensor)
        self.shapes = {name: tuple(tensor.shape) for name, (_, tensor) in self._tensors.items()}
        self._whole: set[Path] = set()  # files whose sums were found right

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        path, tensor = self._tensors[name]
        problem = _problem(tensor)
        if problem is not None:
            raise CheckpointError(f"{path}: {name} {problem}")
        return tensor.dtype

    def read(self, name: str) -> Tensor:
        """Return the tensor.

        Raises:
            CheckpointError: if a part of its file does not have the sum that the file says.
        """
        path, tensor = self._tensors[name]
        if path not in self._whole:
            _check_sums(path)
            self._whole.add(path)
        return tensor

    def place(self, name: str) -> str:
        """Return the path of the tensor's file."""
        return str(self._tensors[name][0])


def read_pickle(path: Path) -> Any:
    """Return the content of a file that `torch.save` wrote; tensors stay in the file if they can.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds more than data.
    """
    if not is_file(path):
        raise CheckpointError(f"no file at {path}")
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
        if zipped and not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is not a readable PyTorch file: it is cut off")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, which could run code, or is not a PyTorch file. Save "
            f"only the state dict: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # the type of torch.load's error depends on the damage
        raise CheckpointError(f"{path} is not a readable PyTorch file: {_reason(error)}") from error


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the content of a file, which must be names with tensors.

    Raises:
        CheckpointError: if it is something else.
    """
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict (names with tensors)")
    for name, value in content.items():
        check_name(name, path)
        if value.is_nested:  # it has no shape
            raise CheckpointError(f"{path}: {name} is a nested tensor, which is no weight")
    return content


def _problem(tensor: Tensor) -> str | None:
    """Return why the values of a tensor cannot be read, or None."""
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout}); save what its to_dense() gives"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}); import the unquantised model"
    if tensor.is_meta:
        return "has a shape but no values: it was saved from the device meta"
    if tensor.dtype not in DTYPES.values():
        return f"is of type {tensor.dtype}; import reads float32, float16 and bfloat16"
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return (
            f"has the shape {list(tensor.shape)}, but fewer values in the file, which it repeats; "
            f"save what its contiguous() gives"
        )
    return None


def _check_sums(path: Path) -> None:
    """Refuse a file with a part that is not of its CRC-32, which PyTorch writes but ignores.

    The sum 0 stands for none, as `torch.serialization.set_crc32_options(False)` writes it.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC and entry.compress_type == zipfile.ZIP_STORED:
                    with archive.open(entry) as file:
                        while file.read(CHUNK):
                            pass
    except Exception as error:  # the type of zipfile's error depends on the damage
        raise CheckpointError(f"{path} is damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the first sentence of an error of a library, without its place in the code."""
    line = (str(error).splitlines() or [""])[0]
    sentences = [part for part in line.split(". ") if part and not part.startswith("[enforce fail")]
    return (sentences or [type(error).__name__])[0][:LONGEST_REASON]
