"""Pack the weights of a bundle into the file that a native engine maps into memory."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.bundle import Bundle
from ...progress import Progress, silent
from .layout import FORMAT, Layout

__all__ = ["pack_weights"]

MAGIC = b"EDGEGPTW"
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1"}


def pack_weights(bundle: Bundle, path: Path, progress: Progress = silent) -> None:
    """Write the packed file of a bundle; at most one of its tensors is in memory.

    Raises:
        BundleError: if a weight is missing or has another shape than the model's.
        OSError: if the file cannot be written.
    """
    layout = Layout(bundle.manifest)
    source = np.memmap(bundle.file(bundle.manifest.weights_file), dtype=np.uint8, mode="r")

    def read(name: str) -> NDArray[Any]:
        entry = bundle.manifest.weights[name]
        stored = source[entry.offset : entry.offset + entry.size]
        return stored.view(DTYPES[entry.dtype]).reshape(entry.shape)

    with path.open("wb") as file:
        file.write(struct.pack("<8sIIQ32s8x", MAGIC, FORMAT, 0, layout.size, layout.hash))
        for index, (offset, tensor) in enumerate(layout.tensors):
            progress("packing the weights", index, len(layout.tensors))
            file.write(bytes(offset - file.tell()))
            for piece in tensor.pieces(read):
                file.write(np.ascontiguousarray(piece).data)
            assert file.tell() == offset + tensor.size, f"{tensor} has another size"
        file.write(bytes(layout.size - file.tell()))
