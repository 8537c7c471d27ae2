"""Quantised weights as TensorRT reads them, derived from those of the bundle where they are needed.

A bundle holds each weight once, in the layout of ONNX Runtime's kernels: unsigned integers, and
scales that may be negative. TensorRT's parser wants signed integers and positive scales. The graph
of the lowering "standard-qdq" has initializers for these (`export/passes/dequantize_weights.py`
gives the formulas) which point into a file that no bundle contains: it is written here, into a
folder of its own, for as long as a build takes.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BundleError
from ..manifest import Graph, WeightEntry
from .onnx_file import External, external_tensors

__all__ = ["BITS", "DERIVED_NAME", "graph_with_weights", "write_derived"]

DERIVED_NAME = "derived.bin"
BITS = {"int8": 8, "int4": 4}  # by a bundle's precision


@contextmanager
def graph_with_weights(bundle: Bundle, graph: Graph) -> Iterator[Path]:
    """Yield the path of a graph's file beside which all its weights lie.

    Raises:
        BundleError: if the graph wants weights that do not follow from the bundle's.
    """
    path = bundle.file(graph.file)
    derived = [one for one in external_tensors(path.read_bytes()) if one.location == DERIVED_NAME]
    if not derived:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="edgegpt-") as name:
        folder, weights = Path(name), bundle.file(bundle.manifest.weights_file)
        bits = BITS[bundle.manifest.precision]
        write_derived(derived, bits, weights, bundle.manifest.weights, folder / DERIVED_NAME)
        _link(weights, folder / weights.name)
        shutil.copyfile(path, folder / path.name)
        yield folder / path.name


def write_derived(
    wanted: list[External],
    bits: int,
    weights_file: Path,
    weights: dict[str, WeightEntry],
    out: Path,
) -> None:
    """Write the file that `wanted` point into.

    Args:
        wanted: initializers of a graph.
        bits: of the bundle's integers, 4 or 8.
        weights_file: of the bundle.
        weights: what is in it.
        out: the file to write.

    Raises:
        BundleError: if one does not follow from the weights.
    """
    with weights_file.open("rb") as source, out.open("wb") as target:

        def read(name: str, dtype: str) -> NDArray[Any]:
            entry = weights.get(name)
            if entry is None:
                raise BundleError(
                    f"a graph wants the weight {name}, which the bundle does not have"
                )
            source.seek(entry.offset)
            return np.frombuffer(source.read(entry.size), dtype=dtype).reshape(entry.shape)

        for tensor in wanted:
            base, _, kind = tensor.name.rpartition(".")
            values, scales = read(base, "<u1"), read(f"{base}.scales", "<f4")
            zero = f"{base}.zero_points"
            packed = read(zero, "<u1") if zero in weights else None
            if kind not in DERIVE:
                raise BundleError(f"a graph wants the weight {tensor.name}, which is none")
            data = DERIVE[kind](_Stored(values, scales, packed, bits))
            if data.nbytes != tensor.length:
                raise BundleError(f"{tensor.name} has {data.nbytes} bytes, not {tensor.length}")
            target.seek(tensor.offset)
            target.write(data.tobytes())


@dataclass(frozen=True, eq=False)
class _Stored:
    """A weight [N, K] in G blocks a row of `bits`-bit integers, as MatMulNBits has it.

    `values` uint8 [N, G, block * bits / 8], the first of two nibbles low; `scales` float32 [N, G];
    `packed_zero_points` uint8 [N, ceil(G * bits / 8)], or None where all are 2^(bits - 1).
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    packed_zero_points: NDArray[np.uint8] | None
    bits: int

    def zero_points(self) -> NDArray[np.float32]:
        """Return the zero points, float32 [N, G]."""
        if self.packed_zero_points is None:
            return np.full(self.scales.shape, 2.0 ** (self.bits - 1), dtype=np.float32)
        numbers = _unpacked(self.packed_zero_points, self.bits)
        return numbers[:, : self.scales.shape[1]].astype(np.float32)


def _signed(weight: _Stored) -> NDArray[np.uint8]:
    """Return v: turning the top bit of u takes 2^(bits - 1) off, turning all others -1 - v."""
    top = 0x80 if weight.bits == 8 else 0x88
    scales = weight.scales[:, :, None]  # (N, G, 1)
    turned = np.where(scales < 0, ~weight.values, weight.values) ^ np.uint8(top)
    return np.where(scales == 0, np.uint8(0), turned)


def _magnitudes(weight: _Stored) -> NDArray[np.float32]:
    """Return m, float32 [N, G]; TensorRT wants no 0."""
    return np.where(weight.scales == 0, np.float32(1), np.abs(weight.scales))


def _corrections(weight: _Stored) -> NDArray[np.float32]:
    """Return c, float32 [G, N]."""
    zero, half, scales = weight.zero_points(), np.float32(2 ** (weight.bits - 1)), weight.scales
    found = np.where(scales < 0, -scales * (zero - half + 1), scales * (half - zero))
    return np.ascontiguousarray(found.T)


def _table(weight: _Stored) -> NDArray[np.float32]:
    """Return the weight itself, float32 [N, G, block]."""
    numbers = _unpacked(weight.values, weight.bits).astype(np.float32)
    return (numbers - weight.zero_points()[:, :, None]) * weight.scales[:, :, None]


# By the last part of an initializer's name.
DERIVE: dict[str, Callable[[_Stored], NDArray[Any]]] = {
    "signed": _signed,
    "magnitudes": _magnitudes,
    "corrections": _corrections,
    "table": _table,
}


def _unpacked(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return one number a byte along the last axis."""
    if bits == 8:
        return values
    both = np.stack([values & 0x0F, values >> 4], axis=-1)  # (..., n, 2)
    return both.reshape(*values.shape[:-1], -1)


def _link(source: Path, target: Path) -> None:
    """Let `target` have the content of `source`; by a copy where links are not allowed."""
    try:
        os.symlink(source.absolute(), target)
    except OSError:
        shutil.copyfile(source, target)
