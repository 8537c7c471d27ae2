"""A graph that selects the best logits on the device, so that a token costs only a small copy.

The graph has five nodes and fits the logits of any model, so its ONNX file is written here, field
by field. Shipping it in every bundle would change the format for the sake of one engine.

Field numbers are those of onnx.proto.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.protobuf import bytes_field, number_field, text_field
from ..candidates import Candidates
from .binding import Place, place_of
from .device import Block, DeviceMemory

__all__ = ["CandidateStep", "candidates_example", "candidates_model", "is_worthwhile"]

IR_VERSION, OPSET = 8, 13  # before opset 18, the axes of ReduceMin and ReduceL1 are attributes
FLOAT, INT64 = 1, 7  # TensorProto.DataType
MOST_IDS = 2**24  # float32 represents all smaller whole numbers exactly
EXTRAS = 2  # values after the candidates' logits and ids: smallest logit, sum of magnitudes

Logits = NDArray[np.float32]


def is_worthwhile(count: int, vocab_size: int) -> bool:
    """Return whether `count` candidates are possible, and cheaper to copy than all logits."""
    return 2 * count + EXTRAS < vocab_size <= MOST_IDS


class CandidateStep:
    """The graph, bound to the logits of one step; it selects the `count` best per position."""

    def __init__(
        self, session: Any, memory: DeviceMemory, logits: Place, source: Block, count: int
    ) -> None:
        """Bind to `logits` [B, P, V], which lie in `source`."""
        batch, positions, self.vocab_size = logits.shape
        self.session, self.memory, self.source = session, memory, source
        self.count, self.shape = count, (batch, positions, 2 * count + EXTRAS)
        self.k = np.array([count], dtype=np.int64)
        self.result = memory.allocate(4 * batch * positions * self.shape[2], "candidates")
        self.binding = session.io_binding()
        self.binding.bind_input("logits", *logits)
        self.binding.bind_input("k", *place_of(self.k))
        where = memory.place(self.result, "float32", self.shape)
        self.binding.bind_output("candidates", *where)

    def run(self, logits: Callable[[], Logits]) -> list[list[Candidates]]:
        """Run, and return the candidates [B][P]; `logits` returns all logits, [B, P, V]."""
        self.memory.run(self.session, self.binding, None)
        found = self.result.read().view(np.float32).reshape(self.shape)  # (B, P, 2 * count + 2)
        return [
            [self._row(numbers, logits, row, place) for place, numbers in enumerate(rows)]
            for row, rows in enumerate(found)
        ]

    def _row(
        self, numbers: Logits, logits: Callable[[], Logits], row: int, place: int
    ) -> Candidates:
        count = self.count
        return Candidates(
            ids=numbers[count : 2 * count].astype(np.int64),
            logits=numbers[:count],
            lowest=float(numbers[-2]),
            finite=bool(np.isfinite(numbers[-1])),
            vocab_size=self.vocab_size,
            fetch=lambda: logits()[row, place],
        )


def candidates_model() -> bytes:
    """Return the ONNX file.

    Inputs: logits float32 [B, P, V], k int64 [1]. Output: candidates float32 [B, P, 2k + 2]: the k
    best logits, their ids, the smallest logit, and the sum of all magnitudes. The sum is finite
    only if all logits are finite.
    """
    nodes = [
        _node("TopK", ["logits", "k"], ["best", "ids"], [_int("axis", -1)]),
        _node("Cast", ["ids"], ["ids_float"], [_int("to", FLOAT)]),
        _node("ReduceMin", ["logits"], ["lowest"], [_ints("axes", [-1])]),
        _node("ReduceL1", ["logits"], ["total"], [_ints("axes", [-1])]),
        _node(
            "Concat", ["best", "ids_float", "lowest", "total"], ["candidates"], [_int("axis", -1)]
        ),
    ]
    graph = b"".join(
        [
            *(bytes_field(1, node) for node in nodes),
            text_field(2, "candidates"),
            bytes_field(11, _value("logits", FLOAT, ["batch", "positions", "vocabulary"])),
            bytes_field(11, _value("k", INT64, [1])),
            bytes_field(12, _value("candidates", FLOAT, ["batch", "positions", "numbers"])),
        ]
    )
    opset = text_field(1, "") + number_field(2, OPSET)
    return (
        number_field(1, IR_VERSION)
        + text_field(2, "edgegpt")
        + bytes_field(7, graph)
        + bytes_field(8, opset)
    )


def candidates_example() -> dict[str, NDArray[Any]]:
    """Return the smallest inputs that run all operators of the graph."""
    return {"logits": np.zeros((1, 1, 2), dtype=np.float32), "k": np.array([1], dtype=np.int64)}


def _node(operator: str, inputs: list[str], outputs: list[str], attributes: list[bytes]) -> bytes:
    fields = [text_field(1, name) for name in inputs] + [text_field(2, name) for name in outputs]
    named = [text_field(3, outputs[0]), text_field(4, operator)]
    return b"".join([*fields, *named, *(bytes_field(5, attribute) for attribute in attributes)])


def _int(name: str, value: int) -> bytes:
    return text_field(1, name) + number_field(3, value) + number_field(20, 2)  # AttributeType INT


def _ints(name: str, values: Iterable[int]) -> bytes:
    numbers = b"".join(number_field(8, value) for value in values)
    return text_field(1, name) + numbers + number_field(20, 7)  # AttributeType INTS


def _value(name: str, element_type: int, shape: list[int | str]) -> bytes:
    """Return a ValueInfoProto; a dimension is a number, or a name if it is not fixed."""
    dimensions = [
        bytes_field(1, number_field(1, size) if isinstance(size, int) else text_field(2, size))
        for size in shape
    ]
    tensor = number_field(1, element_type) + bytes_field(2, b"".join(dimensions))
    return text_field(1, name) + bytes_field(2, bytes_field(1, tensor))
