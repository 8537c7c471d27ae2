"""The tensors of a packed weight file that tell positions: rotations, sines, and biases."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensors import LANES, Read, as_float32, rounded_up

__all__ = ["Biases", "Buckets", "Rotations", "Sines"]


@dataclass(frozen=True)
class Rotations:
    """Cosines and sines of each position, float32 [positions, 2 * R], times a factor.

    The angles, position times `angles` [R], are rounded to float32, as in `edgegpt.model.rotary`.
    """

    positions: int
    angles: Sequence[float]
    factor: float

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.positions * 2 * len(self.angles) * 4

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield the table."""
        position = np.arange(self.positions, dtype=np.float32)[:, None]  # (positions, 1)
        angle = (position * np.array(self.angles, dtype=np.float32)).astype(np.float64)
        both = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)  # (positions, 2R)
        yield both.astype(np.float32) * np.float32(self.factor)


@dataclass(frozen=True)
class Sines:
    """The encodings float32 [positions, width] of `edgegpt.model.positions.sinusoidal_table`."""

    positions: int
    width: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.positions * self.width * 4

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield the table."""
        pairs = np.arange(0, self.width, 2, dtype=np.float64)
        position = np.arange(self.positions, dtype=np.float64)[:, None]  # (positions, 1)
        angle = position * 10000.0 ** (-pairs / self.width)  # (positions, pairs)
        both = np.stack([np.sin(angle), np.cos(angle)], axis=2)  # (positions, pairs, 2)
        table = both.reshape(self.positions, -1)[:, : self.width]
        yield np.ascontiguousarray(table.astype(np.float32))


@dataclass(frozen=True)
class Buckets:
    """Which of `count` biases a distance has, as `edgegpt.model.positions.distance_buckets`."""

    count: int
    farthest: int
    causal: bool

    def of(self, distance: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the buckets [n] of distances [n], key minus query."""
        if self.causal:
            count, side, back = self.count, np.zeros_like(distance), np.maximum(-distance, 0)
        else:
            count = self.count // 2
            side, back = (distance > 0) * count, np.abs(distance)
        exact = count // 2
        # In float32, because a distance may lie on a border; rounded alike by every processor.
        times = np.maximum(back, 1).astype(np.float32) / np.float32(exact)
        far = np.log(times.astype(np.float64)).astype(np.float32)
        far = far / np.float32(math.log(self.farthest / exact)) * np.float32(count - exact)
        grown = np.minimum(exact + far.astype(np.int64), count - 1)
        return side + np.where(back < exact, back, grown)


@dataclass(frozen=True)
class Biases:
    """What distances add to the scores of heads, float32 [heads][bias_stride(span)].

    The bundle has them by buckets. Entry i is that of the distance i - (span - 1), key minus query.
    """

    name: str
    heads: int
    span: int
    buckets: Buckets

    @property
    def _filled(self) -> int:
        return rounded_up(2 * self.span - 1 + LANES, LANES)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.heads * self._filled * 4

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield the table."""
        distance = np.arange(1 - self.span, self.span)
        biases = as_float32(read(self.name))[self.buckets.of(distance)]  # (2 * span - 1, heads)
        yield np.pad(biases.T, ((0, 0), (0, self._filled - len(distance))))
