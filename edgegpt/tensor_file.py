"""Write a safetensors file tensor after tensor, so that only one of them is in memory.

The layouts come first, because the file begins with its table of contents. Then each tensor is
asked for once, in the file's order, written, and hashed on the way:

    layouts = {name: Layout("BF16", (rows, columns)), ...}
    write_tensors(path, layouts, lambda name: raw_bytes(transformed(name)))

`raw_bytes` gives the bytes of a PyTorch tensor; a numpy array serves as it is. The file
is the one that `safetensors.save_file` would write, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.runtime.bundle.manifest import WeightEntry
from edgegpt.runtime.bundle.vocabulary import WEIGHT_ITEM_BYTES, WeightDtype
from edgegpt.runtime.files import new_file
from edgegpt.runtime.progress import Progress, silent

__all__ = ["Layout", "Written", "layout_of", "raw_bytes", "write_tensors"]

# safetensors puts the widest types first, so that every tensor is aligned, and then sorts by name.
ORDER: tuple[WeightDtype, ...] = ("F32", "BF16", "F16", "I8", "U8")
DTYPES: dict[torch.dtype, WeightDtype] = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
ALIGNMENT = 8  # bytes, of the end of the header
MEGABYTE = 10**6
CHUNK = 1 << 24  # bytes to write and hash at once


@dataclass(frozen=True)
class Layout:
    """The type of a tensor, named as in safetensors, and its shape."""

    dtype: WeightDtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that the tensor takes."""
        return prod(self.shape) * WEIGHT_ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Written:
    """The SHA-256 of a written file; offset, size and SHA-256 of each tensor in it, by name."""

    sha256: str
    entries: dict[str, WeightEntry]


def layout_of(tensor: Tensor) -> Layout:
    """Return the layout of a PyTorch tensor, which may be on the meta device."""
    return Layout(DTYPES[tensor.dtype], tuple(tensor.shape))


def raw_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of a PyTorch tensor, uint8 [size]; without a copy if it is contiguous."""
    flat = tensor.detach().to("cpu").contiguous().view(-1)  # (values,)
    array: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array


def write_tensors(
    path: Path,
    layouts: Mapping[str, Layout],
    read: Callable[[str], NDArray[Any]],
    progress: Progress = silent,
) -> Written:
    """Write the file at `path`, atomically; replace the file if there is one.

    Args:
        path: the file.
        layouts: type and shape of each tensor, by name.
        read: returns a tensor, or its bytes in row-major order. It is called once per name. If
            it raises an error, `path` is as it was.
        progress: called before each tensor, with the MB that are written.

    Raises:
        ValueError: if `read` returns another number of bytes than the layout says.
    """
    names = sorted(layouts, key=lambda name: (ORDER.index(layouts[name].dtype), name))
    header, ends = _header({name: layouts[name] for name in names})
    entries, whole = {}, hashlib.sha256(header)
    with new_file(path) as file:
        file.write(header)
        for name in names:
            layout, own = layouts[name], hashlib.sha256()
            begin = len(header) + ends[name] - layout.size
            progress(f"writing {path.name}", begin // MEGABYTE, ends[names[-1]] // MEGABYTE)
            data = np.ascontiguousarray(read(name)).reshape(-1).view(np.uint8)  # (size,)
            if data.size != layout.size:
                raise ValueError(f"{name} has {data.size} bytes; its layout says {layout.size}")
            for start in range(0, data.size, CHUNK):
                piece = data[start : start + CHUNK].data
                file.write(piece)
                whole.update(piece)
                own.update(piece)
            entries[name] = WeightEntry(
                layout.dtype, list(layout.shape), begin, layout.size, own.hexdigest()
            )
    return Written(whole.hexdigest(), entries)


def _header(layouts: Mapping[str, Layout]) -> tuple[bytes, dict[str, int]]:
    """Return the file's beginning, and where each tensor ends, counted from there."""
    table, ends, end = {}, {}, 0
    for name, layout in layouts.items():
        begin, end = end, end + layout.size
        table[name] = {
            "dtype": layout.dtype,
            "shape": list(layout.shape),
            "data_offsets": [begin, end],
        }
        ends[name] = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, ends
