"""Derive quantised weights in TensorRT's form from those of the bundle, for the time of a build.

A bundle holds each weight once, in the layout of ONNX Runtime's kernels: unsigned integers, and
scales that may be negative. TensorRT's parser wants signed integers and positive scales. The graph
of the lowering "standard-qdq" has initializers for these (`export/passes/dequantize_weights.py`
gives the formulas). Their data lies in a file that no bundle contains. This module writes that file
into a temporary folder, which exists for as long as the build takes.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from ..files import scratch_folder
from .bundle import Bundle
from .manifest import Graph, Quantization, WeightEntry
from .onnx_file import External, external_tensors

__all__ = [
    "ALIGNMENT",
    "DERIVED_NAME",
    "derived_tensors",
    "graph_with_weights",
    "write_derived",
]

DERIVED_NAME = "derived.bin"
ALIGNMENT = 64  # bytes, of tensors in the file
DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}


@contextmanager
def graph_with_weights(bundle: Bundle, graph: Graph) -> Iterator[Path]:
    """Yield the path of a graph's file in a folder that also holds all its weights.

    Raises:
        BundleError: if the graph wants weights that cannot be derived from the bundle's.
    """
    path, weights = bundle.file(graph.file), bundle.file(bundle.manifest.weights_file)
    wanted = derived_tensors(path)
    if not wanted:
        yield path
        return
    quantization = bundle.manifest.quantization
    if quantization is None or len({path.name, weights.name, DERIVED_NAME}) < 3:
        raise BundleError(f"{graph.file} is no graph of an int8 or int4 bundle")
    with scratch_folder(wanted[-1].offset + wanted[-1].length) as folder:
        write_derived(wanted, quantization, weights, bundle.manifest.weights, folder / DERIVED_NAME)
        _link(weights, folder / weights.name)
        shutil.copyfile(path, folder / path.name)
        yield folder / path.name


def derived_tensors(graph_file: Path) -> list[External]:
    """Return the initializers of a graph whose bytes have to be derived, in the file's order.

    Raises:
        BundleError: if they overlap or leave gaps in the file, or if two have the same name.
    """
    tensors = external_tensors(graph_file.read_bytes())
    found = [tensor for tensor in tensors if tensor.location == DERIVED_NAME]
    found.sort(key=lambda tensor: tensor.offset)
    end = 0
    for tensor in found:
        if not end <= tensor.offset < end + ALIGNMENT or tensor.length < 0:
            raise BundleError(f"{tensor.name} of {graph_file.name} lies at a wrong place")
        end = tensor.offset + tensor.length
    if len({tensor.name for tensor in found}) < len(found):
        raise BundleError(f"{graph_file.name} has several weights of one name")
    return found


def write_derived(
    wanted: list[External],
    quantization: Quantization,
    weights_file: Path,
    weights: dict[str, WeightEntry],
    out: Path,
) -> None:
    """Write the file that holds the data of the `wanted` tensors.

    Args:
        wanted: what `derived_tensors` returned.
        quantization: how the bundle's weights were quantised.
        weights_file: the weight file of the bundle.
        weights: its entries, by name.
        out: the file to write.

    Raises:
        BundleError: if a tensor cannot be derived from the weights.
    """
    with weights_file.open("rb") as source, out.open("wb") as target:
        for tensor in wanted:
            base, _, kind = tensor.name.rpartition(".")
            if kind not in DERIVE:
                raise BundleError(f"a graph wants the weight {tensor.name}, which is none")
            data = DERIVE[kind](_stored(source, weights, base, quantization.bits_of(base)))
            if data.nbytes != tensor.length:
                raise BundleError(f"{tensor.name} has {data.nbytes} bytes, not {tensor.length}")
            target.seek(tensor.offset)
            target.write(data.tobytes())


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight [N, K] of `bits`-bit integers in G blocks per row, in the layout of MatMulNBits.

    `values` is uint8 [N, G, block * bits / 8]; of two nibbles, the first is the low one. `scales`
    is float32 [N, G].
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    bits: int


def _stored(source: BinaryIO, weights: dict[str, WeightEntry], name: str, bits: int) -> _Stored:
    """Read a weight, and check that the shapes of its parts match."""

    def read(name: str, dtype: str) -> NDArray[Any]:
        entry = weights.get(name)
        if entry is None:
            raise BundleError(f"a graph wants the weight {name}, which the bundle does not have")
        fits = entry.dtype == dtype and entry.size == prod(entry.shape) * DTYPES[dtype].itemsize
        source.seek(entry.offset)
        raw = source.read(entry.size) if fits else b""
        if not fits or len(raw) != entry.size:
            raise BundleError(f"the weight {name} is damaged")
        return np.frombuffer(raw, DTYPES[dtype]).reshape(entry.shape)

    values, scales = read(name, "U8"), read(f"{name}.scales", "F32")
    rows, blocks = scales.shape if scales.ndim == 2 else (-1, -1)
    if values.ndim != 3 or values.shape[:2] != (rows, blocks):
        raise BundleError(f"the weight {name} is damaged: its parts do not fit each other")
    return _Stored(values, scales, bits)


def _signed(weight: _Stored) -> NDArray[np.uint8]:
    """Return v. Flipping u's top bit gives u - 2^(bits-1), all others 2^(bits-1) - 1 - u."""
    top = 0x80 if weight.bits == 8 else 0x88
    scales = weight.scales[:, :, None]  # (N, G, 1)
    turned = np.where(scales < 0, ~weight.values, weight.values) ^ np.uint8(top)
    return np.where(scales == 0, np.uint8(0), turned)


def _magnitudes(weight: _Stored) -> NDArray[np.float32]:
    """Return m, float32 [N, G]; a scale of 0 becomes 1, because TensorRT refuses 0."""
    return np.where(weight.scales == 0, np.float32(1), np.abs(weight.scales))


def _corrections(weight: _Stored) -> NDArray[np.float32]:
    """Return c, float32 [G, N]."""
    return np.ascontiguousarray(np.maximum(-weight.scales, np.float32(0)).T)


def _table(weight: _Stored) -> NDArray[np.float32]:
    """Return the dequantised weight, float32 [N, G, block]."""
    numbers = _unpacked(weight.values, weight.bits).astype(np.float32)
    return (numbers - np.float32(2 ** (weight.bits - 1))) * weight.scales[:, :, None]


# What derives an initializer, by the last part of its name.
DERIVE: dict[str, Callable[[_Stored], NDArray[Any]]] = {
    "signed": _signed,
    "magnitudes": _magnitudes,
    "corrections": _corrections,
    "table": _table,
}


def _unpacked(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the numbers unpacked to one per byte along the last axis."""
    if bits == 8:
        return values
    both = np.stack([values & 0x0F, values >> 4], axis=-1)  # (..., n, 2)
    return both.reshape(*values.shape[:-1], -1)


def _link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`, or a copy where links are not allowed."""
    try:
        os.symlink(source.absolute(), target)
    except OSError:
        shutil.copyfile(source, target)
