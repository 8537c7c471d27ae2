"""A graph of a bundle, and the roles of its inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import BundleError
from .fields import kind_of, plain, positive, take, whole, word
from .model_info import ModelInfo
from .vocabulary import (
    AXES,
    DTYPES,
    FLOATS,
    ITEM_BYTES,
    LOWERINGS,
    PARTS,
    ROLES,
    Axis,
    Dtype,
    Lowering,
    Part,
    Role,
)

__all__ = ["Graph", "Port"]


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Symbolic axes are strings. A cache input names in `present` the output that holds it after the
    step.
    """

    name: str
    role: Role
    dtype: Dtype
    shape: list[int | Axis]
    present: str | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return ITEM_BYTES[self.dtype]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with the symbols replaced by their `sizes`."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Return the size in bytes, with the symbols replaced by their `sizes`."""
        return prod(self.sized(sizes)) * self.itemsize

    @classmethod
    def of(cls, entry: Any, where: str) -> "Port":
        """Read a port from an entry of the manifest's list at `where`; refuse unknown words."""
        name, shape = plain(entry, "name", where), take(entry, "shape", list, where)
        for size in shape:
            if type(size) is not str:
                whole(size, where)
            elif size not in AXES:
                known = ", ".join(AXES)
                raise BundleError(f"{where}: {name} has the axis {size!r:.40}; known are: {known}")
        present = entry.get("present")
        if present is not None and type(present) is not str:
            raise BundleError(f"{where}: present is {kind_of(present)}, not a string")
        return cls(
            name=name,
            role=word(entry, "role", ROLES, f"{where}: {name}"),
            dtype=word(entry, "dtype", DTYPES, f"{where}: {name}"),
            shape=shape,
            present=present,
        )


@dataclass(frozen=True)
class Graph:
    """One ONNX file: its purpose, the lowering that made it, and its inputs and outputs."""

    name: str
    file: str
    part: Part
    lowering: Lowering
    opset: int
    inputs: list[Port]
    outputs: list[Port]

    @property
    def logits(self) -> Port:
        """The output that holds the logits, [batch, logit_positions, vocabulary]."""
        return next(port for port in self.outputs if port.role == "logits")

    @property
    def vocab_size(self) -> int:
        """The number of logits of a position."""
        size = self.logits.shape[-1]
        assert isinstance(size, int), "reading the manifest has compared it with the model's"
        return size

    def caches(self) -> list[Port]:
        """Return the cache inputs in the order of the layers, keys before values."""
        return [port for port in self.inputs if port.role == "cache"]

    @classmethod
    def of(cls, entry: Any, info: ModelInfo, where: str) -> "Graph":
        """Read a graph of the model `info` from the manifest's table at `where`.

        Raises:
            BundleError: if a word is unknown, or an input or output is not what its role says.
        """
        graph = cls(
            name=plain(entry, "name", where),
            file=take(entry, "file", str, where),
            part=word(entry, "part", PARTS, where),
            lowering=word(entry, "lowering", LOWERINGS, where),
            opset=positive(entry, "opset", where),
            inputs=[
                Port.of(port, f"{where}: inputs") for port in take(entry, "inputs", list, where)
            ],
            outputs=[
                Port.of(port, f"{where}: outputs") for port in take(entry, "outputs", list, where)
            ],
        )
        for port in [*graph.inputs, *graph.outputs]:
            _check_port(port, info, where)
        _check_roles(graph, where)
        _check_caches(graph, info, where)
        return graph


def _meanings(info: ModelInfo) -> dict[Role, tuple[tuple[Dtype, ...], list[list[int | Axis]]]]:
    """Return the dtypes and shapes that each role may have in a graph of the model `info`."""
    return {
        "ids": (("int64",), [["batch", "new_tokens"]]),
        "past_len": (("int64",), [["batch"]]),
        # The second shape can be fed to a single GatherND.
        "logit_positions": (
            ("int64",),
            [["batch", "logit_positions"], ["batch", "logit_positions", 1]],
        ),
        "cache": (FLOATS, [["batch", info.n_kv_head, "context", info.head_dim]]),
        "logits": (("float32",), [["batch", "logit_positions", info.vocab_size]]),
        "seqlens_k": (("int32",), [["batch"]]),
        "total_sequence_length": (("int32",), [[1]]),
        "position_ids": (("int64",), [["batch", "new_tokens"]]),
    }


def _check_port(port: Port, info: ModelInfo, where: str) -> None:
    """Refuse a port whose dtype or shape does not fit its role."""
    dtypes, shapes = _meanings(info)[port.role]
    if port.dtype not in dtypes or port.shape not in shapes:
        may_be = f"{' or '.join(dtypes)} {' or '.join(map(_shown, shapes))}"
        raise BundleError(
            f"{where}: {port.name} is {port.dtype} {_shown(port.shape)}; in this model {port.role} "
            f"is {may_be}"
        )


def _check_roles(graph: Graph, where: str) -> None:
    """Refuse a graph that lacks an input or output, or has one that no engine would feed."""
    fed, made = (
        [port.role for port in ports if port.role != "cache"]
        for ports in (graph.inputs, graph.outputs)
    )
    if made != ["logits"]:
        raise BundleError(
            f"{where}: its outputs are, besides caches, {_listed(made)}; they must be logits alone"
        )
    if not {"ids", "logit_positions"} <= set(fed) or "logits" in fed or len({*fed}) < len(fed):
        raise BundleError(
            f"{where}: its inputs are, besides caches, {_listed(fed)}; there must be one of ids, "
            f"one of logit_positions, and no two of any"
        )


def _check_caches(graph: Graph, info: ModelInfo, where: str) -> None:
    """Refuse caches that are not two for each layer, each with an output of its own."""
    caches = graph.caches()
    if len(caches) != 2 * info.n_layer:
        raise BundleError(
            f"{where} has {len(caches)} caches; a model of n_layer {info.n_layer} has "
            f"{2 * info.n_layer}, keys and values"
        )
    free = {port.name: port.dtype for port in graph.outputs if port.role == "cache"}
    for port in graph.inputs:
        is_cache = port.role == "cache"
        if port.present is None and not is_cache:
            continue
        if not is_cache or free.pop(port.present or "", None) != port.dtype:
            raise BundleError(
                f"{where}: {port.name}: present is {port.present!r:.40}; of a cache it must be an "
                f"output of its own that is a cache of {port.dtype}, of others nothing"
            )
    if free:
        raise BundleError(f"{where}: {', '.join(free)[:80]} is the present of no cache")


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _shown(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"
