"""The weights of a bundle, each once, as external data of its graphs.

A safetensors file starts with a header and then holds the plain bytes of each tensor, so an ONNX
initializer can point at a tensor in one: the same bytes serve all graphs, and anyone who wants to
read the weights by name.
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
    """Write the weights of all graphs to `path`, let their initializers point there, list them.

    Weights are `names`, and what a quantised one has besides (`<name>.scales` ...); one that
    several graphs have is stored once. A second name for the same bytes in another shape, which
    ends in `ROWS_SUFFIX`, is not stored at all. Other initializers are constants of the graph
    (shapes, indices) and stay in it.
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
    """Return name, value and tensor of each weight; derived ones lie elsewhere."""
    return [
        (name, value, value.const_value)
        for model in models
        for name, value in model.graph.initializers.items()
        if (name in names or name.rpartition(".")[0] in names)
        and value.const_value is not None
        and not isinstance(value.const_value, ir.ExternalTensor)
    ]


def _read_header(path: Path) -> dict[str, WeightEntry]:
    """Return where each tensor lies in the file, and its hash."""
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
