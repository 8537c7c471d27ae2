"""Weights beside the graph: one safetensors file that all graphs of a bundle point into.

ONNX external data is (file, offset, length), and so is a tensor in a safetensors file: the same
bytes serve ONNX engines and anyone who wants to read the weights by name.
"""

import hashlib
import json
from pathlib import Path

import onnx_ir as ir
from safetensors.numpy import save_file

from edgegpt.runtime.manifest import WeightEntry

__all__ = ["move_weights"]

HEADER_LENGTH = 8


def move_weights(model: ir.Model, names: set[str], path: Path) -> dict[str, WeightEntry]:
    """Write the weights `names` to `path`, let the graph's initializers point there, list them.

    Other initializers are constants of the graph (shapes, indices) and stay in it.
    """
    weights = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if name in names
    }
    save_file(weights, path)
    entries = _read_header(path)
    for name, entry in entries.items():
        value = model.graph.initializers[name]
        value.const_value = ir.ExternalTensor(
            location=path.name,
            offset=entry.offset,
            length=entry.size,
            dtype=value.const_value.dtype,
            shape=ir.Shape(entry.shape),
            name=name,
            base_dir=path.parent,
        )
    return entries


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
