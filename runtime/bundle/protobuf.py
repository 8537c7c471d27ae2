"""Read and write the wire format of protobuf messages, without the protobuf package.

A message is a sequence of fields. A field has a number and a value; a nested message is a value of
bytes. ONNX files are the only messages read here.
https://protobuf.dev/programming-guides/encoding describes the encoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BundleError

__all__ = ["BYTES", "Field", "bytes_field", "number_field", "read_fields", "text_field"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_LENGTHS = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10  # bytes that 64 bits take


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Attributes:
        number: the field's number in the message's definition.
        wire: the wire type; BYTES also for texts and nested messages.
        value: the content of a BYTES field; empty for a number.
        whole: the whole encoded field, as it is in the message.
    """

    number: int
    wire: int
    value: bytes
    whole: bytes


def read_fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a message in order.

    Raises:
        BundleError: if `message` is not a protobuf message.
    """
    start = 0
    while start < len(message):
        key, value_start = _read_varint(message, start)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            _, end = _read_varint(message, value_start)
        elif wire == BYTES:
            length, value_start = _read_varint(message, value_start)
            end = value_start + length
        elif wire in FIXED_LENGTHS:
            end = value_start + FIXED_LENGTHS[wire]
        else:
            raise BundleError(f"the graph is not an ONNX file: it has a field of wire type {wire}")
        if end > len(message):
            raise BundleError("the graph is not an ONNX file: it ends within a field")
        value = message[value_start:end] if wire == BYTES else b""
        yield Field(number, wire, value, message[start:end])
        start = end


def number_field(field: int, number: int) -> bytes:
    """Encode a field with a whole number; a negative one becomes its 64-bit two's complement."""
    return _varint(field << 3 | VARINT) + _varint(number & 2**64 - 1)


def bytes_field(field: int, value: bytes) -> bytes:
    """Encode a field with bytes, or with a nested message."""
    return _varint(field << 3 | BYTES) + _varint(len(value)) + value


def text_field(field: int, text: str) -> bytes:
    """Encode a field with text, as UTF-8."""
    return bytes_field(field, text.encode())


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    """Return the number that begins at `start`, and where it ends."""
    number = 0
    for index, byte in enumerate(message[start : start + LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, start + index + 1
    raise BundleError("the graph is not an ONNX file: it ends within a number")


def _varint(number: int) -> bytes:
    """Encode a number of 0 or more in base 128: seven bits per byte, the lowest bits first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
