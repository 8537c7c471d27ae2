"""The weights of a bundle: each is stored once, as external data of the graphs.

A safetensors file holds a header, then the plain bytes of each tensor. An ONNX initializer can
therefore point at a tensor in the file. The same bytes serve all graphs, and any program that
reads the weights by name.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgegpt.errors import ExportError
from edgegpt.runtime.bundle.vocabulary import WeightDtype
from edgegpt.runtime.progress import Progress, silent
from edgegpt.tensor_file import Layout, Written, write_tensors

from .lazy_weights import LazyWeight
from .passes import ROWS_SUFFIX

__all__ = ["move_weights"]

DTYPES: dict[ir.DataType, WeightDtype] = {
    ir.DataType.FLOAT: "F32",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
}


def move_weights(
    models: Sequence[ir.Model], names: set[str], path: Path, progress: Progress = silent
) -> Written:
    """Write the weights of all graphs to `path`, and point the initializers there.

    Weights are the initializers in `names` and the extra tensors of quantised weights
    (`<name>.scales` ...). A weight that several graphs share is stored once. A name that ends in
    `ROWS_SUFFIX` is a second name for the same bytes in another shape, and is not stored at all.
    Other initializers are constants of a graph (shapes, indices) and stay in the graph. Each weight
    is read, transformed and hashed while it is written; no two of them are in memory.
    """
    weights: dict[str, ir.TensorProtocol] = {}
    for name, _, tensor in _initializers(models, names):
        if not name.endswith(ROWS_SUFFIX) and not _same(weights.setdefault(name, tensor), tensor):
            raise ExportError(f"two graphs of the bundle have different weights named {name}")
    layouts = {
        name: Layout(DTYPES[tensor.dtype], tuple(tensor.shape.numpy()))
        for name, tensor in weights.items()
    }
    written = write_tensors(path, layouts, lambda name: weights[name].numpy(), progress)
    for name, value, tensor in _initializers(models, names):
        entry = written.entries[name.removesuffix(ROWS_SUFFIX)]
        value.const_value = ir.ExternalTensor(
            location=path.name,
            offset=entry.offset,
            length=entry.size,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=path.parent,
        )
    return written


def _same(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    """Return whether two tensors of one name have the same bytes."""
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if isinstance(one, LazyWeight) and isinstance(other, LazyWeight):
        return one.key == other.key
    return np.array_equal(one.numpy(), other.numpy())


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
