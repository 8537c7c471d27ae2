"""Protobuf's wire format without protobuf: the protobuf package reads what this code writes."""

import pytest
from onnx import AttributeProto, TensorProto

from edgegpt.runtime.bundle.protobuf import (
    BYTES,
    bytes_field,
    number_field,
    read_fields,
    text_field,
)
from edgegpt.runtime.errors import BundleError

NUMBERS = [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -128, -(2**63)]
NAME, INTS, NESTED, FLOAT = 1, 8, 5, 2  # field numbers of an AttributeProto


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_those_that_protobuf_reads(number: int) -> None:
    assert AttributeProto.FromString(number_field(INTS, number)).ints == [number]


def test_texts_and_nested_messages_are_those_that_protobuf_reads() -> None:
    name = "naïve " * 40  # its length does not fit into one byte
    tensor = TensorProto(name="inner", dims=[3, 400])
    message = text_field(NAME, name) + bytes_field(NESTED, tensor.SerializeToString())
    assert AttributeProto.FromString(message) == AttributeProto(name=name, t=tensor)


def test_reading_gives_every_field_as_protobuf_wrote_it() -> None:
    tensor = TensorProto(name="inner")
    message = AttributeProto(name="a", f=1.5, ints=[-1, 300], t=tensor).SerializeToString()
    fields = list(read_fields(message))
    assert b"".join(field.whole for field in fields) == message
    assert {field.number for field in fields} == {NAME, FLOAT, NESTED, INTS}
    values = {field.number: field.value for field in fields if field.wire == BYTES}
    assert values[NAME] == b"a"
    assert values[NESTED] == tensor.SerializeToString()


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x08\xff", b"\x0d\0\0", b"\x0b"])
def test_what_ends_too_early_or_is_of_no_known_type_is_refused(message: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX file"):
        list(read_fields(message))
