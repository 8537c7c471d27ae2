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

ENCODERS: tuple[Part, ...] = ("encoder", "exact-encoder")
PER_LAYER: tuple[Role, ...] = ("cache", "source")  # of which a graph has several


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

    @property
    def is_encoder(self) -> bool:
        """Whether the graph encodes sources; other graphs compute logits."""
        return self.part in ENCODERS

    def sources(self) -> list[Port]:
        """Return what the graph takes from an encoder, or gives to a decoder, layer by layer."""
        ports = self.outputs if self.is_encoder else self.inputs
        return [port for port in ports if port.role == "source"]

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
        if graph.is_encoder and info.encoder is None:
            raise BundleError(f"{where} is an {graph.part}; the model has none")
        _check_roles(graph, info.encoder is not None, where)
        _check_caches(graph, info, where)
        _check_sources(graph, info, where)
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
        "source_ids": (("int64",), [["sources", "source"]]),
        "source_len": (("int64",), [["sources"]]),
        "source": (FLOATS, [["sources", info.n_head, "source", info.head_dim]]),
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


def _check_roles(graph: Graph, has_encoder: bool, where: str) -> None:
    """Refuse a graph that lacks an input or output, or has one that no engine would feed."""
    fed, made = (
        [port.role for port in ports if port.role not in PER_LAYER]
        for ports in (graph.inputs, graph.outputs)
    )
    if graph.is_encoder:
        if sorted(fed) != ["source_ids", "source_len"] or made:
            raise BundleError(
                f"{where}: its inputs are {_listed(fed)} and its outputs, besides sources, "
                f"{_listed(made)}; an encoder has source_ids and source_len, and no other outputs"
            )
        return
    if made != ["logits"]:
        raise BundleError(
            f"{where}: its outputs are, besides caches, {_listed(made)}; they must be logits alone"
        )
    needed = {"ids", "logit_positions"} | ({"source_len"} if has_encoder else set())
    never = {"logits", "source_ids"} | (set() if has_encoder else {"source_len"})
    if not needed <= set(fed) or never & set(fed) or len({*fed}) < len(fed):
        raise BundleError(
            f"{where}: its inputs are, besides caches, {_listed(fed)}; there must be one each of "
            f"{_listed(sorted(needed))}, and no two of any"
        )


def _check_caches(graph: Graph, info: ModelInfo, where: str) -> None:
    """Refuse caches that are not two for each layer, each with an output of its own."""
    caches, wanted = graph.caches(), 0 if graph.is_encoder else 2 * info.n_layer
    if len(caches) != wanted:
        raise BundleError(
            f"{where} has {len(caches)} caches; a model of n_layer {info.n_layer} has {wanted}, "
            f"keys and values"
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


def _check_sources(graph: Graph, info: ModelInfo, where: str) -> None:
    """Refuse a graph without keys and values of sources for each layer, or with too many."""
    wanted = 0 if info.encoder is None else 2 * info.n_layer
    others = graph.inputs if graph.is_encoder else graph.outputs
    if len(graph.sources()) != wanted or any(port.role == "source" for port in others):
        raise BundleError(
            f"{where} has {len(graph.sources())} ports for sources; as a graph of this model it "
            f"needs {wanted}, {'outputs' if graph.is_encoder else 'inputs'} all of them"
        )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _shown(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"
