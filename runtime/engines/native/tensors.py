"""The tensors of a packed weight file, each of which can be made from a bundle's weights.

source/description.h tells how a matrix lies in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "Floats",
    "IntegerTiles",
    "Kind",
    "Read",
    "Rows",
    "Scales",
    "Tensor",
    "Tiles",
    "as_float32",
    "rounded_up",
]

LANES = 16  # outputs of a tile
PIECE = 64  # tiles to make at once, so that the temporaries are small beside a large head

Kind = Literal["float32", "float16", "bfloat16", "int8", "int4"]
WIDTH: dict[Kind, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
# Reads a weight of the bundle as it is stored; bfloat16 comes as uint16.
Read = Callable[[str], NDArray[Any]]


class Tensor(Protocol):
    """A part of the packed file: how many bytes it has, and these in order."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield arrays whose bytes, one after the other, are the tensor's."""


def rounded_up(count: int, multiple: int) -> int:
    """Return the first multiple from `count` on."""
    return -(-count // multiple) * multiple


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return floats of any kind as float32; uint16 are the bits of bfloat16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


@dataclass(frozen=True)
class Floats:
    """A weight of `count` values as float32, filled up with zeros to whole vectors."""

    name: str
    count: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return rounded_up(self.count, LANES) * 4

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield the values."""
        values = as_float32(read(self.name)).reshape(-1)  # (count,)
        yield np.pad(values, (0, -self.count % LANES))


@dataclass(frozen=True)
class Rows:
    """A table [rows, width] of floats as the bundle has it."""

    name: str
    size: int

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield the table."""
        yield read(self.name)


@dataclass(frozen=True)
class Tiles:
    """A weight of floats [tile][input][16], of bfloat16 [tile][input / 2][16][2].

    The bundle has it by inputs or by outputs.
    """

    name: str
    kind: Kind
    outputs: int
    inputs: int
    by_inputs: bool

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return rounded_up(self.outputs, LANES) * self._filled * WIDTH[self.kind]

    @property
    def _together(self) -> int:
        """Inputs of an output that are neighbours in memory."""
        return 2 if self.kind == "bfloat16" else 1

    @property
    def _filled(self) -> int:
        return rounded_up(self.inputs, self._together)

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield some tiles at a time."""
        stored = read(self.name)
        weight = stored.T if self.by_inputs else stored  # (N, K)
        for begin in range(0, self.outputs, PIECE * LANES):
            part = weight[begin : begin + PIECE * LANES]
            part = np.pad(part, ((0, -len(part) % LANES), (0, self._filled - self.inputs)))
            tiles = part.reshape(-1, LANES, self._filled // self._together, self._together)
            yield np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))  # (tiles, K / n, 16, n)


@dataclass(frozen=True)
class IntegerTiles:
    """A weight of integers of `bits` bits in blocks of inputs, uint8 [N, G, block * bits / 8].

    The outputs that fill up the last tile have zeros, and scales of zero.
    """

    name: str
    outputs: int
    blocks: int
    block: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return rounded_up(self.outputs, LANES) * self.blocks * self.block * self.bits // 8

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield some tiles at a time."""
        stored = read(self.name)
        for begin in range(0, self.outputs, PIECE * LANES):
            part = stored[begin : begin + PIECE * LANES]
            part = np.pad(part, ((0, -len(part) % LANES), (0, 0), (0, 0)))
            if self.bits == 4:  # of two numbers that are neighbours, to two that are 4 apart
                values = np.stack([part & 15, part >> 4], axis=-1)  # (n, G, block / 2, 2)
                eights = values.reshape(*part.shape[:2], -1, 2, 4)  # (n, G, block / 8, 2, 4)
                fours = eights[..., 0, :] | (eights[..., 1, :] << np.uint8(4))
            else:
                fours = part.reshape(*part.shape[:2], -1, 4)  # (n, G, block / 4, 4)
            tiles = fours.reshape(-1, LANES, *fours.shape[1:])  # (tiles, 16, G, fours, 4)
            yield np.ascontiguousarray(tiles.transpose(0, 2, 3, 1, 4))


@dataclass(frozen=True)
class Scales:
    """The scales of integers, float32 [N, G], as [tile][block][16]."""

    name: str
    outputs: int
    blocks: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return rounded_up(self.outputs, LANES) * self.blocks * 4

    def pieces(self, read: Read) -> Iterator[NDArray[Any]]:
        """Yield all scales."""
        scales = np.pad(read(self.name), ((0, -self.outputs % LANES), (0, 0)))
        tiles = scales.reshape(-1, LANES, self.blocks)  # (tiles, 16, G)
        yield np.ascontiguousarray(tiles.transpose(0, 2, 1))
