"""Steps whose inputs and outputs are bound once, to memory of the host or of a device.

A cache input and its output are bound to the same memory, so that the operators write the new slots
in place and copy nothing.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Graph
from ...errors import EngineError
from ..base import Ids, State

__all__ = [
    "BoundSources",
    "BoundState",
    "Place",
    "Step",
    "StepInputs",
    "StepShape",
    "bind_graph",
    "place_of",
]

# A step of up to 16 new tokens is short. Its buffers are small, so up to 32 short steps are kept.
SHORT_STEP, KEPT_STEPS = 16, 32
# ONNX's numbers for the element types of ports, because numpy has no bfloat16.
ELEMENT_TYPES = {"float32": 1, "int32": 6, "int64": 7, "float16": 10, "bfloat16": 16}

Array = NDArray[Any]
Zeros = Callable[[tuple[int, ...], str], Array]  # makes an array from a shape and a dtype


class Place(NamedTuple):
    """A tensor in some memory: the arguments of `bind_input` and `bind_output`, in order."""

    device: str
    number: int
    element_type: int
    shape: tuple[int, ...]
    address: int

    def rows(self, first: int, end: int, element_bytes: int) -> "Place":
        """Return the part that holds rows first .. end - 1."""
        start = self.address + first * prod(self.shape[1:]) * element_bytes
        return self._replace(shape=(end - first, *self.shape[1:]), address=start)


def place_of(array: Array) -> Place:
    """Return the place of an array. ONNX Runtime keeps only the address: keep the array alive."""
    return Place("cpu", 0, ELEMENT_TYPES[str(array.dtype)], array.shape, array.ctypes.data)


class StepInputs:
    """The host's inputs of a step of `length` new tokens and `positions` logits per row.

    Attributes:
        ids: int64 [B, length], new tokens.
        past_len: int64 [B], how many slots of each row are filled.
        logit_positions: int64 [B, positions], the new tokens whose logits are wanted.
        seqlens_k, total, slots: the inputs that replace past_len in some lowerings; see `Role`.
    """

    def __init__(self, ids: Ids, past_len: Ids, positions: int, zeros: Zeros = np.zeros) -> None:
        """Use the arrays `ids` and `past_len`, and make the others with `zeros`."""
        batch, self.length = ids.shape
        self.ids, self.past_len = ids, past_len
        self.logit_positions = zeros((batch, positions), "int64")
        self.seqlens_k = zeros((batch,), "int32")
        self.total = np.zeros(1, dtype=np.int32)
        self.offsets = np.arange(self.length, dtype=np.int64)
        # With one new token, its slot is past_len.
        self.slots = self.past_len if self.length == 1 else zeros((batch, self.length), "int64")

    @classmethod
    def of_size(
        cls, batch: int, length: int, positions: int, zeros: Zeros = np.zeros
    ) -> "StepInputs":
        """Make all arrays with `zeros`."""
        return cls(zeros((batch, length), "int64"), zeros((batch,), "int64"), positions, zeros)

    def derive(self, longest: int) -> None:
        """Compute the inputs that follow from `past_len`, whose largest value is `longest`."""
        np.add(self.past_len, self.length - 1, out=self.seqlens_k, casting="unsafe")
        self.total[0] = longest + self.length
        if self.length > 1:
            np.add(self.past_len[:, None], self.offsets, out=self.slots)  # (B, length)

    def by_role(self) -> dict[str, Array]:
        """Return the arrays by the roles of their ports."""
        return {
            "ids": self.ids,
            "past_len": self.past_len,
            "logit_positions": self.logit_positions,
            "seqlens_k": self.seqlens_k,
            "total_sequence_length": self.total,
            "position_ids": self.slots,
        }


@dataclass(frozen=True)
class BoundSources:
    """The sources of a step's rows: int64 [G] lengths, and keys and values [G, H, N, D]."""

    lengths: Array
    places: list[Place]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of their axes."""
        return {"sources": len(self.lengths), "source": self.places[0].shape[2]}


def bind_graph(
    binding: Any,
    graph: Graph,
    inputs: StepInputs,
    place: Callable[[str, Array], Place],
    caches: list[Place],
    logits: Place,
    sources: BoundSources | None = None,
) -> None:
    """Bind all ports of `graph`; `place` returns where the graph reads the input of a role."""
    arrays, remaining = inputs.by_role(), iter(caches)
    sizes = {
        "batch": len(inputs.past_len),
        "new_tokens": inputs.length,
        "logit_positions": inputs.logit_positions.shape[1],
    }
    encoded: Iterator[Place] = iter(())
    if sources is not None:
        sizes, encoded = sizes | sources.sizes, iter(sources.places)
        arrays["source_len"] = sources.lengths
    for port in graph.inputs:
        if port.role == "cache":
            where = next(remaining)
        elif port.role == "source":
            where = next(encoded)
        else:
            where = place(port.role, arrays[port.role])
            where = where._replace(shape=port.sized(sizes))
        _bind(binding.bind_input, graph, port.name, where)
        if port.present is not None:
            _bind(binding.bind_output, graph, port.present, where)
    _bind(binding.bind_output, graph, graph.logits.name, logits)


def _bind(bind: Callable[..., None], graph: Graph, name: str, where: Place) -> None:
    """Bind one name.

    Raises:
        EngineError: if the graph's file has no such input or output.
    """
    try:
        bind(name, *where)
    except Exception as error:  # the bindings raise several unrelated types
        raise EngineError(f"{graph.file} is not what the manifest says of it: {error}") from error


@dataclass(frozen=True)
class StepShape:
    """`length` new tokens and `positions` logits for each row first .. first + count - 1."""

    first: int
    count: int
    length: int
    positions: int

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.first, self.first + self.count)


class Step(Protocol):
    """A step of one shape, bound to memory."""

    inputs: StepInputs

    def run_bound(self, longest: int) -> None:
        """Run what the inputs hold; `longest` is the largest of `past_len`."""

    def logits(self) -> NDArray[np.float32]:
        """Return the result, float32 [B, P, V]."""


class BoundState(State):
    """A state whose steps are bound when first needed, and kept for the next time.

    Attributes:
        single: the step of one token a row that was run last, or will be first.
    """

    def __init__(self, graph: Graph, rows: int, context: int, sources: int | None = None) -> None:
        """Bind the step that decodes all rows."""
        super().__init__(rows, context, sources)
        # GroupQueryAttention takes several tokens on a filled cache for one row only.
        self.takes_rows_apart = any(port.role == "seqlens_k" for port in graph.inputs)
        self.bound: dict[StepShape, Step] = {}
        self.single = self.last = self._single(rows)
        self.decoded = rows  # how many rows `single` decodes

    @abstractmethod
    def _single(self, count: int) -> Step:
        """Return the step of one token for the first `count` rows."""

    @abstractmethod
    def _bind(self, shape: StepShape) -> Step:
        """Return a new step."""

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""
        return self.last.logits()

    def is_one_step(self, past_len: Ids, first: int) -> bool:
        """Return whether the rows are run together; see `State`."""
        return not (self.takes_rows_apart and past_len.any())

    def _decode(self, count: int, longest: int) -> None:
        if count != self.decoded:
            self.single, self.decoded = self._single(count), count
        self.last = self.single
        self.single.run_bound(longest)

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        count, length = ids.shape
        if count > 1 and length > 1 and not self.is_one_step(past_len, first):
            self.last = self._run_rows(ids, past_len, logit_positions, first)
            return
        shape = StepShape(first, count, length, logit_positions.shape[1])
        self.last = self._bound(shape)
        _run_step(self.last, ids, past_len, logit_positions)

    def _run_rows(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> Step:
        """Run each row by itself, on its part of the cache."""
        parts = []
        for row in range(len(ids)):
            part = slice(row, row + 1)
            step = self._bound(StepShape(first + row, 1, ids.shape[1], logit_positions.shape[1]))
            _run_step(step, ids[part], past_len[part], logit_positions[part])
            parts.append(step.logits().copy())  # steps may share the memory of their logits
        return _Gathered(step.inputs, np.concatenate(parts))

    def _bound(self, shape: StepShape) -> Step:
        """Return the step of that shape; of those with large buffers only the last one is kept."""
        step = self.bound.pop(shape, None)
        if step is None:
            is_short = shape.length <= SHORT_STEP
            alike = [old for old in self.bound if (old.length <= SHORT_STEP) == is_short]
            if len(alike) >= (KEPT_STEPS if is_short else 1):
                del self.bound[alike[0]]
            step = self._bind(shape)
        self.bound[shape] = step  # as the last one: those that were not used for long go first
        return step


class _Gathered:
    """The results of steps that ran row by row, in place of a step's."""

    def __init__(self, inputs: StepInputs, result: NDArray[np.float32]) -> None:
        self.inputs, self.result = inputs, result

    def run_bound(self, longest: int) -> None:
        raise AssertionError("it was run already")

    def logits(self) -> NDArray[np.float32]:
        return self.result


def _run_step(step: Step, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
    """Copy the inputs into the step's own and run it."""
    step.inputs.ids[:] = ids
    step.inputs.past_len[:] = past_len
    step.inputs.logit_positions[:] = logit_positions
    step.run_bound(int(past_len.max()))
