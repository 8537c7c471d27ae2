"""The tensors of GGUF files under the names of Hugging Face, their quantisation undone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from ...errors import CheckpointError
from .header import Stored

__all__ = ["Entry", "GgufTensors"]

# The types that are read as they are, with the type of numpy that has as many bytes.
PLAIN = {
    GGMLQuantizationType.F32: (torch.float32, np.int32),
    GGMLQuantizationType.F16: (torch.float16, np.int16),
    GGMLQuantizationType.BF16: (torch.bfloat16, np.int16),
}
CHUNK = 1 << 24  # values to dequantise at once; it takes several times their memory


@dataclass(frozen=True)
class Entry:
    """A tensor, and what becomes of it.

    Attributes:
        stored: where it lies.
        own: its name in the GGUF file.
        shape: after `undo`.
        undo: the inverse of the change that the conversion to GGUF made; None: it made none.
    """

    stored: Stored
    own: str
    shape: tuple[int, ...]
    undo: Callable[[Tensor], Tensor] | None


class GgufTensors:
    """Tensors by the names of Hugging Face; what has no such name keeps its own."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self.shapes = {name: entry.shape for name, entry in entries.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor: that of the file, or float32 if it is quantised."""
        kind = self._entries[name].stored.type
        if kind in PLAIN:
            return PLAIN[kind][0]
        if not _can_undo(kind):
            raise CheckpointError(
                f"{self.place(name)} is of type {kind.name}, which import cannot read"
            )
        return torch.float32

    def read(self, name: str) -> Tensor:
        """Return the tensor, in the layout of Hugging Face."""
        dtype, entry = self.dtype(name), self._entries[name]
        stored = entry.stored
        if stored.type in PLAIN:
            values = _bytes(stored, 0, stored.rows).view(PLAIN[stored.type][1])
            found = torch.from_numpy(values).view(dtype)  # (rows * columns,)
        else:
            found = torch.from_numpy(_dequantised(stored))  # (rows, columns)
        tensor = found.view(stored.shape)
        return tensor if entry.undo is None else entry.undo(tensor)

    def place(self, name: str) -> str:
        """Return the file that holds the tensor and its name there, for messages."""
        entry = self._entries[name]
        return f"{entry.stored.path} ({entry.own})"


def _dequantised(stored: Stored) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Return the values [rows, columns]."""
    columns = stored.shape[-1]
    values = np.empty((stored.rows, columns), np.float32)
    step = max(1, CHUNK // columns)
    for first in range(0, stored.rows, step):
        last = min(first + step, stored.rows)
        raw = _bytes(stored, first, last).reshape(last - first, stored.row_size)
        with np.errstate(all="ignore"):  # damaged scales give infinities, which are refused later
            values[first:last] = dequantize(raw, stored.type)
    return values


def _bytes(stored: Stored, first: int, last: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Return the bytes of some rows."""
    size = (last - first) * stored.row_size
    begin = stored.offset + first * stored.row_size
    try:
        raw = np.fromfile(stored.path, np.uint8, size, offset=begin)
    except OSError as error:
        raise CheckpointError(f"{stored.path} cannot be read: {error}") from error
    if len(raw) != size:
        raise CheckpointError(f"{stored.path} became shorter while it was read")
    return raw


def _can_undo(kind: GGMLQuantizationType) -> bool:
    """Return whether the library can dequantise a type, seen by a block of zeros."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
