"""The header of a GGUF file: its settings by key, and where each tensor lies.

The library `gguf` has the numbers of the types and undoes the quantisation, but its reader trusts
the counts and offsets of a file. This one believes nothing that the file's size contradicts. The
format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from ...errors import CheckpointError
from ...user_files import is_file

__all__ = ["MAGIC", "Header", "Stored", "read_header"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had counts of 32 bits
LARGEST_HEADER = 64 * 2**20  # bytes; vocabularies of 256k entries take about 10 MB
LONGEST_NAME = 63  # bytes of a tensor's name, GGML_MAX_NAME - 1 in ggml.h
MOST_AXES = 4  # GGML_MAX_DIMS in ggml.h
SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        path: the file.
        offset: of its first byte in the file.
        shape: as PyTorch has it; GGUF writes it the other way round.
        type: how its values are encoded.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def row_size(self) -> int:
        """Bytes of a row, which is a whole number of blocks."""
        values, size = GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // values * size

    @property
    def rows(self) -> int:
        """The number of rows: the product of all axes but the last."""
        return prod(self.shape[:-1])


@dataclass(frozen=True)
class Header:
    """What the header says: `fields` as numbers, texts, truth values and lists, and the tensors."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Stored]


def read_header(path: Path) -> Header:
    """Read the header of one file.

    Raises:
        CheckpointError: if the file is no GGUF file, is of a version that is not known, is cut off
            or contradicts itself.
    """
    if not is_file(path):
        raise CheckpointError(f"{path} is missing")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(LARGEST_HEADER)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return _Parser(path, content, size).header()


class _Parser:
    """Takes numbers and texts off the beginning of a file, one after another."""

    def __init__(self, path: Path, content: bytes, size: int) -> None:
        self.path, self.content, self.size = path, content, size
        self.place = 0

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}")

    def header(self) -> Header:
        if self.content[: len(MAGIC)] != MAGIC:
            raise self.error("it is not a GGUF file")
        self.place = len(MAGIC)
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise self.error("it is a GGUF file for big-endian machines; convert the model again")
        if version not in VERSIONS:
            raise self.error(f"its GGUF version is {version}; import reads {VERSIONS}")
        tensor_count, field_count = self.number("Q"), self.number("Q")
        fields = self.named(field_count, "setting", lambda: self.value(self.number("I")))
        tensors = self.named(tensor_count, "tensor", self.tensor)
        step = fields.get("general.alignment", 32)
        if type(step) is not int or step < 8 or step & (step - 1):
            raise self.error(f"general.alignment is {step!r:.80}, not a power of two from 8 on")
        begin = -(-self.place // step) * step
        placed = {name: self.placed(name, begin, step, own) for name, own in tensors.items()}
        return Header(self.path, fields, placed)

    def named(self, count: int, what: str, read: Callable[[], Any]) -> dict[str, Any]:
        """Return `count` things, each after its name."""
        self.expect(count, 12)  # bytes of a name's length and of a type
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self.text()
            if name in found or not name.isprintable():
                problem = "occurs twice" if name in found else "is not a name"
                raise self.error(f"the {what} {name!r:.80} {problem}")
            found[name] = read()
        return found

    def take(self, size: int) -> int:
        """Step over `size` bytes; return where they begin."""
        self.expect(size, 1)
        self.place += size
        return self.place - size

    def expect(self, count: int, size: int) -> None:
        """Refuse a count of things, each of at least `size` bytes, that the header cannot hold."""
        if count * size <= len(self.content) - self.place:
            return
        if len(self.content) < self.size:
            raise self.error(f"its header has more than {LARGEST_HEADER:,} bytes, or is damaged")
        raise self.error("it is cut off, or its header is damaged")

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def numbers(self, code: str, count: int) -> list[Any]:
        size = struct.calcsize(f"<{code}")
        self.expect(count, size)
        return list(struct.unpack_from(f"<{count}{code}", self.content, self.take(count * size)))

    def text(self) -> str:
        size = self.number("Q")
        begin = self.take(size)
        try:
            return self.content[begin : begin + size].decode()
        except UnicodeDecodeError as error:
            raise self.error("a text in its header is not UTF-8") from error

    def value(self, number: int) -> Any:
        """Return the value of a setting, of the type with this number."""
        if number == GGUFValueType.ARRAY:
            own, count = self.number("I"), self.number("Q")
            if own == GGUFValueType.STRING:
                self.expect(count, 8)
                return [self.text() for _ in range(count)]
            return [_shortest(own, value) for value in self.numbers(self.code(own), count)]
        if number == GGUFValueType.STRING:
            return self.text()
        return _shortest(number, self.number(self.code(number)))

    def code(self, number: int) -> str:
        """Return the code of `struct` for a type of numbers."""
        if number not in SCALARS:
            raise self.error(f"a setting is of the type {number}, which is not known here")
        return SCALARS[GGUFValueType(number)]

    def tensor(self) -> Stored:
        """Return a tensor, its offset still counted from the first one."""
        axes = self.number("I")
        if not 1 <= axes <= MOST_AXES:
            raise self.error(f"a tensor has {axes} axes; 1 to {MOST_AXES} are possible")
        shape = tuple(reversed(self.numbers("Q", axes)))
        number = self.number("I")
        if number not in set(GGMLQuantizationType):
            raise self.error(f"a tensor is of the type {number}, which is not known here")
        return Stored(self.path, self.number("Q"), shape, GGMLQuantizationType(number))

    def placed(self, name: str, begin: int, step: int, tensor: Stored) -> Stored:
        """Return the tensor with its place in the file, which must have it all."""
        values, _ = GGML_QUANT_SIZES[tensor.type]
        if len(name.encode()) > LONGEST_NAME:
            raise self.error(f"the name of the tensor {name!r:.80} is too long")
        if 0 in tensor.shape or tensor.shape[-1] % values:
            raise self.error(
                f"{name} has the shape {list(tensor.shape)}; the rows of a tensor of type "
                f"{tensor.type.name} have a multiple of {values} values"
            )
        found = replace(tensor, offset=begin + tensor.offset)
        end = found.offset + found.rows * found.row_size
        if tensor.offset % step or end > self.size:
            raise self.error(
                f"{name} lies outside of the file, or in the midst of others: the file is cut "
                f"off, or its header is damaged"
            )
        return found


def _shortest(number: int, value: Any) -> Any:
    """Return the shortest number that means the same float32, as 1e-05 for 9.99999975e-06."""
    return float(str(np.float32(value))) if number == GGUFValueType.FLOAT32 else value
