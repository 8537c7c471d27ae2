"""Where the tensors of a bundle lie in the packed file of a native engine.

The classes are those of source/description.h, field by field. Offsets are in bytes from the begin
of the file; 0 means that the model has no such tensor.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...bundle.manifest import Manifest, WeightEntry
from ...errors import BundleError
from .tensors import (
    Floats,
    IntegerTiles,
    Kind,
    Rotations,
    Rows,
    Scales,
    Sines,
    Tensor,
    Tiles,
)

__all__ = ["FORMAT", "HEADER", "Layer", "Layout", "Matrix", "Norm", "Rotary", "Table"]

HEADER = 64  # bytes before the first tensor
ALIGNMENT = 64
FORMAT = 1
SLACK = 64  # bytes behind the last tensor: vectors may be read behind the end of a row
FLOATS: dict[str, Kind] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Matrix:
    """A weight [outputs, inputs] in tiles, and where its scales and its bias are."""

    kind: Kind = "float32"
    outputs: int = 0
    inputs: int = 0
    block: int = 1
    weights: int = 0
    scales: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Norm:
    """The factors of a norm, and what it adds."""

    weight: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of floats."""

    kind: Kind = "float32"
    rows: int = 0


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the positions for so many pairs."""

    table: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class AttentionLayer:
    """The attention of a layer, and its norms."""

    window: int
    rotary: Rotary
    norm_in: Norm
    qkv: Matrix
    q_norm: Norm
    k_norm: Norm
    proj: Matrix
    norm_out: Norm
    norm_sum: Norm


@dataclass(frozen=True)
class FeedForwardLayer:
    """The feed-forward part of a layer, and its norms; `gate` is empty if there is none."""

    norm_in: Norm
    gate: Matrix
    up: Matrix
    down: Matrix
    norm_out: Norm
    norm_sum: Norm


@dataclass(frozen=True)
class Layer:
    """A layer."""

    attention: AttentionLayer
    feed_forward: FeedForwardLayer


@dataclass
class _Packer:
    """Gives each tensor its place."""

    manifest: Manifest
    tensors: list[tuple[int, Tensor]] = field(default_factory=list)
    end: int = HEADER

    def add(self, tensor: Tensor) -> int:
        """Return the offset of a new tensor."""
        offset = self.end
        self.tensors.append((offset, tensor))
        self.end = -(-(offset + tensor.size) // ALIGNMENT) * ALIGNMENT
        return offset

    def entry(self, name: str, *shapes: list[int]) -> WeightEntry:
        """Return the entry of a weight, which must have one of the shapes."""
        entry = self.manifest.weights.get(name)
        if entry is None or entry.shape not in shapes:
            found = "is missing" if entry is None else f"has the shape {entry.shape}"
            raise BundleError(f"the weight {name} {found}; the model needs {shapes[0]}")
        return entry

    def floats(self, name: str, *shape: int) -> int:
        """Add a weight as float32."""
        if self.entry(name, list(shape)).dtype not in FLOATS:
            raise BundleError(f"the weight {name} is not of floats")
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        return self.add(Floats(name, count))

    def optional(self, name: str, width: int) -> int:
        """Add a vector [width] if the bundle has it."""
        return self.floats(name, width) if name in self.manifest.weights else 0

    def norm(self, name: str, width: int) -> Norm:
        """Add the norm `name`, if the model has it."""
        return Norm(self.optional(f"{name}.weight", width), self.optional(f"{name}.bias", width))

    def table(self, name: str, count: int, width: int) -> Table:
        """Add a table as it is."""
        entry = self.entry(name, [count, width])
        if entry.dtype not in FLOATS:
            raise BundleError(f"the weight {name} is not of floats")
        return Table(FLOATS[entry.dtype], self.add(Rows(name, entry.size)))

    def matrix(self, layer: str, outputs: int, inputs: int, *, tied: str = "") -> Matrix:
        """Add the weight of `layer`, which may be the embedding's, and its bias."""
        name = tied or f"{layer}.weight"
        quantization = self.manifest.quantization
        if (
            self.manifest.weights.get(name) is not None
            and f"{name}.scales" in self.manifest.weights
        ):
            assert quantization is not None, "only quantised bundles have scales"
            found = self._integers(name, outputs, inputs, quantization.bits_of(name))
        else:
            shapes = [outputs, inputs], [inputs, outputs]
            kind = FLOATS.get(self.entry(name, shapes[0] if tied else shapes[1]).dtype)
            if kind is None:
                raise BundleError(f"the weight {name} is not of floats")
            tiles = Tiles(name, kind, outputs, inputs, by_inputs=not tied)
            found = Matrix(kind, outputs, inputs, 1, self.add(tiles))
        return replace(found, bias=self.optional(f"{layer}.bias", outputs))

    def _integers(self, name: str, outputs: int, inputs: int, bits: int) -> Matrix:
        stored = self.manifest.weights[name].shape
        block = stored[2] * 8 // bits if len(stored) == 3 else 0
        if block < 16 or block % 16:
            raise BundleError(f"the weight {name} has blocks of {block} inputs, not of 16 or more")
        blocks = -(-inputs // block)
        self.entry(name, [outputs, blocks, block * bits // 8])
        self.entry(f"{name}.scales", [outputs, blocks])
        tiles = self.add(IntegerTiles(name, outputs, blocks, block, bits))
        scales = self.add(Scales(f"{name}.scales", outputs, blocks))
        return Matrix("int8" if bits == 8 else "int4", outputs, inputs, block, tiles, scales)


class Layout:
    """The packed file of a bundle: its tensors, and which of them each part of the model uses."""

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the weights.

        Raises:
            BundleError: if one is missing or has another shape than the model's.
        """
        self.manifest, self.model = manifest, manifest.model
        self._packer, self._rotations = _Packer(manifest), dict[Any, Rotary]()
        model, packer = self.model, self._packer
        vocab, width, positions = model["vocab_size"], model["n_embd"], model["block_size"]
        embedding = "token_embedding.weight"
        self.embedding = Table()
        if not model["tie_embeddings"]:
            self.embedding = packer.table(embedding, vocab, width)
        self.places = Table()
        if model["position"] == "learned":
            place = packer.floats("position_embedding.weight", positions, width)
            self.places = Table("float32", place)
        if model["position"] == "sinusoidal":
            self.places = Table("float32", packer.add(Sines(positions, width)))
        self.norm_embedding = packer.norm("norm_embedding", width)
        self.layers = [self._layer(index) for index in range(model["n_layer"])]
        self.norm_final = packer.norm("norm_final", width)
        tied = embedding if model["tie_embeddings"] else ""
        self.head = packer.matrix("head", vocab, width, tied=tied)

    @property
    def tensors(self) -> list[tuple[int, Tensor]]:
        """All tensors with their offsets, in the order of the file."""
        return self._packer.tensors

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._packer.end + SLACK

    @property
    def hash(self) -> bytes:
        """SHA-256 of what the file is made from and how."""
        text = f"{FORMAT} {self.manifest.id} {self.tensors!r}"
        return hashlib.sha256(text.encode()).digest()

    def _layer(self, index: int) -> Layer:
        return Layer(self._attention(index), self._feed_forward(f"blocks.{index}"))

    def _attention(self, index: int) -> AttentionLayer:
        model, packer, block = self.model, self._packer, f"blocks.{index}"
        width, head = model["n_embd"], model["head_dim"]
        queries, keys = model["n_head"] * head, model["n_kv_head"] * head
        q_norm, k_norm = (queries, keys) if model["qk_norm"] == "full" else (head, head)
        window, rotary = self._kind(index)
        return AttentionLayer(
            window=window,
            rotary=rotary,
            norm_in=packer.norm(f"{block}.norm_1", width),
            qkv=packer.matrix(f"{block}.attention.qkv", queries + 2 * keys, width),
            q_norm=packer.norm(f"{block}.attention.q_norm", q_norm),
            k_norm=packer.norm(f"{block}.attention.k_norm", k_norm),
            proj=packer.matrix(f"{block}.attention.proj", width, queries),
            norm_out=packer.norm(f"{block}.norm_1_out", width),
            norm_sum=packer.norm(f"{block}.norm_1_sum", width),
        )

    def _feed_forward(self, block: str) -> FeedForwardLayer:
        model, packer, part = self.model, self._packer, f"{block}.feed_forward"
        width, inner = model["n_embd"], model["n_ff"]
        return FeedForwardLayer(
            norm_in=packer.norm(f"{block}.norm_2", width),
            gate=packer.matrix(f"{part}.gate", inner, width) if model["gated"] else Matrix(),
            up=packer.matrix(f"{part}.up", inner, width),
            down=packer.matrix(f"{part}.down", width, inner),
            norm_out=packer.norm(f"{block}.norm_2_out", width),
            norm_sum=packer.norm(f"{block}.norm_2_sum", width),
        )

    def _kind(self, index: int) -> tuple[int, Rotary]:
        """Return the window and the rotation of a layer; equal rotations share a table."""
        model = self.model
        if model["layer_kinds"]:
            kind = model["layer_kinds"][model["layer_kind"][index]]
            window, angles = kind["window"], tuple(kind["rotary"])
            key = (angles, kind["rotary_factor"])
        else:
            window, angles = 0, _frequencies(model) if model["position"] == "rope" else ()
            key = (angles, 1.0)
        if not angles:
            return window, Rotary()
        if key not in self._rotations:
            table = self._packer.add(Rotations(model["block_size"], *key))
            self._rotations[key] = Rotary(table, len(angles))
        return window, self._rotations[key]


def _frequencies(model: dict[str, Any]) -> tuple[float, ...]:
    """Return the angles per position of RoPE, rounded as in `edgegpt.model.rotary`."""
    width, theta = model["head_dim"], np.float32(model["rope_theta"])
    powers = np.arange(0, width, 2).astype(np.float32) / np.float32(width)
    return tuple((np.float32(1.0) / theta**powers).tolist())
