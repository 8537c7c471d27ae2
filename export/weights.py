"""The weights of a bundle: each is stored once, as external data of the graphs.

A safetensors file holds a header, then the plain bytes of each tensor. An ONNX initializer can
therefore point at a tensor in the file. The same bytes serve all graphs, and any program that
reads the weights by name.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgegpt.errors import ExportError
from edgegpt.runtime.bundle.manifest import WeightEntry

from .passes import ROWS_SUFFIX

__all__ = ["move_weights"]

HEADER_LENGTH = 8


def move_weights(models: Sequence[ir.Model], names: set[str], path: Path) -> dict[str, WeightEntry]:
    """Write the weights of all graphs to `path`, point the initializers there, return the entries.

    Weights are the initializers in `names` and the extra tensors of quantised weights
    (`<name>.scales` ...). A weight that several graphs share is stored once. A name that ends in
    `ROWS_SUFFIX` is a second name for the same bytes in another shape, and is not stored at all.
    Other initializers are constants of a graph (shapes, indices) and stay in the graph.
    """
    weights: dict[str, NDArray[Any]] = {}
    for name, _, tensor in _initializers(models, names):
        array = tensor.numpy()
        if name.endswith(ROWS_SUFFIX):
            continue
        if not np.array_equal(weights.setdefault(name, array), array):
            raise ExportError(f"two graphs of the bundle have different weights named {name}")
    save_file(weights, path)
    entries = _read_header(path)
    for name, value, tensor in _initializers(models, names):
        entry = entries[name.removesuffix(ROWS_SUFFIX)]
        value.const_value = ir.ExternalTensor(
            location=path.name,
            offset=entry.offset,
            length=entry.size,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=path.parent,
        )
    return entries


def _initializers(
    models: Sequence[ir.Model], names: set[str]
) -> list[tuple[str, ir.Value, ir.TensorProtocol]]:
    """Return name, value and tensor of each weight; derived weights are in another file."""
    return [
        (name, value, value.const_value)
        for model in models
        for name, value in model.graph.initializers.items()
        if (name in names or name.rpartition(".")[0] in names)
        and value.const_value is not None
        and not isinstance(value.const_value, ir.ExternalTensor)
    ]


def _read_header(path: Path) -> dict[str, WeightEntry]:
    """Return the offset, size and hash of each tensor in the file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:HEADER_LENGTH], "little")
    start = HEADER_LENGTH + length
    header = json.loads(raw[HEADER_LENGTH:start])
    entries = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = (start + offset for offset in tensor["data_offsets"])
        entries[name] = WeightEntry(
            dtype=tensor["dtype"],
            shape=tensor["shape"],
            offset=begin,
            size=end - begin,
            sha256=hashlib.sha256(raw[begin:end]).hexdigest(),
        )
    return entries
