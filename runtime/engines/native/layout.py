"""Where the tensors of a bundle lie in the packed file of a native engine.

The classes are those of source/description.h, field by field.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle.manifest import Manifest
from .packer import Matrix, Norm, Packer, Table
from .positions import Biases, Buckets, Rotations, Sines
from .tensors import Tensor

__all__ = ["FORMAT", "Layer", "Layout", "Rotary", "Stack"]

FORMAT = 2
SLACK = 64  # bytes behind the last tensor: vectors may be read behind the end of a row


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
    biases: int
    norm_in: Norm
    qkv: Matrix
    q_norm: Norm
    k_norm: Norm
    proj: Matrix
    norm_out: Norm
    norm_sum: Norm


@dataclass(frozen=True)
class SourceLayer:
    """The attention of a layer to sources, and its norms."""

    norm_in: Norm
    q: Matrix
    kv: Matrix
    proj: Matrix
    norm_out: Norm
    norm_sum: Norm


NO_SOURCE = SourceLayer(Norm(), Matrix(), Matrix(), Matrix(), Norm(), Norm())


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
    source: SourceLayer
    feed_forward: FeedForwardLayer


class Stack:
    """The layers of a model, or of the encoder or the decoder of one, and how tokens enter.

    Attributes:
        model: its settings, a GPT's.
        tied: whether tokens enter by the weights of the `head`.
        head: from the stream to logits; the decoder's where an encoder is tied to it.
    """

    def __init__(
        self,
        packer: Packer,
        model: dict[str, Any],
        part: str,
        *,
        sourced: bool = False,
        causal: bool = True,
    ) -> None:
        """Lay out everything but embedding and head; `part` begins the names of the weights."""
        self.model, self._packer, self._part = model, packer, part
        self._sourced, self._causal = sourced, causal
        self._rotations, self._distances = dict[Any, Rotary](), dict[str, int]()
        self.embedding, self.tied, self.head = Table(), False, Matrix()
        width, positions = model["n_embd"], model["block_size"]
        self.places = Table()
        if model["position"] == "learned":
            place = packer.floats(f"{part}position_embedding.weight", positions, width)
            self.places = Table("float32", place)
        if model["position"] == "sinusoidal":
            self.places = Table("float32", packer.add(Sines(positions, width)))
        self.norm_embedding = packer.norm(f"{part}norm_embedding", width)
        self.layers = [self._layer(index) for index in range(model["n_layer"])]
        self.norm_final = packer.norm(f"{part}norm_final", width)

    def _layer(self, index: int) -> Layer:
        block = f"{self._part}blocks.{index}"
        source = self._source(block) if self._sourced else NO_SOURCE
        return Layer(self._attention(block, index), source, self._feed_forward(block))

    def _attention(self, block: str, index: int) -> AttentionLayer:
        model, packer = self.model, self._packer
        width, head = model["n_embd"], model["head_dim"]
        queries, keys = model["n_head"] * head, model["n_kv_head"] * head
        q_norm, k_norm = (queries, keys) if model["qk_norm"] == "full" else (head, head)
        window, rotary = self._kind(index)
        return AttentionLayer(
            window=window,
            rotary=rotary,
            biases=self._biases(f"{block}.attention"),
            norm_in=packer.norm(f"{block}.norm_1", width),
            qkv=packer.matrix(f"{block}.attention.qkv", queries + 2 * keys, width),
            q_norm=packer.norm(f"{block}.attention.q_norm", q_norm),
            k_norm=packer.norm(f"{block}.attention.k_norm", k_norm),
            proj=packer.matrix(f"{block}.attention.proj", width, queries),
            norm_out=packer.norm(f"{block}.norm_1_out", width),
            norm_sum=packer.norm(f"{block}.norm_1_sum", width),
        )

    def _biases(self, part: str) -> int:
        """Return where the biases by distance of a layer are; layers may share the first one's."""
        model = self.model
        if model["position"] != "relative":
            return 0
        if model["relative_shared"]:
            part = f"{self._part}blocks.0.attention"
        if part not in self._distances:
            name, heads = f"{part}.relative.weight", model["n_head"]
            buckets = Buckets(
                model["relative_buckets"], model["relative_distance"], causal=self._causal
            )
            self._packer.entry(name, [buckets.count, heads])
            self._distances[part] = self._packer.add(
                Biases(name, heads, model["block_size"], buckets)
            )
        return self._distances[part]

    def _source(self, block: str) -> SourceLayer:
        model, packer, part = self.model, self._packer, f"{block}.source_attention"
        width, inner = model["n_embd"], model["n_head"] * model["head_dim"]
        return SourceLayer(
            norm_in=packer.norm(f"{block}.norm_source", width),
            q=packer.matrix(f"{part}.q", inner, width),
            kv=packer.matrix(f"{part}.kv", 2 * inner, width),
            proj=packer.matrix(f"{part}.proj", width, inner),
            norm_out=packer.norm(f"{block}.norm_source_out", width),
            norm_sum=packer.norm(f"{block}.norm_source_sum", width),
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


class Layout:
    """The packed file of a bundle: its tensors, and which of them each part of the model uses.

    Attributes:
        decoder: the stack with the head.
        encoder: the stack that reads sources; None if the model has none.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the weights.

        Raises:
            BundleError: if one is missing or has another shape than the model's.
        """
        self.manifest, self._packer = manifest, Packer(manifest)
        if "encoder" not in manifest.model:
            self.decoder, self.encoder = Stack(self._packer, manifest.model, ""), None
            self._add_head("", "")
            return
        shared = manifest.model.get("shared_embedding", True)
        encoder, decoder = manifest.model["encoder"], manifest.model["decoder"]
        self.decoder = Stack(self._packer, decoder, "decoder.", sourced=True)
        self.encoder = Stack(self._packer, encoder, "encoder.", causal=False)
        self._add_head("decoder.", "encoder." if shared else "decoder.")
        if shared:
            self.encoder.embedding, self.encoder.tied = self.decoder.embedding, self.decoder.tied
            self.encoder.head = self.decoder.head
        else:
            self.encoder.embedding = self._embedding(self.encoder, "encoder.")

    def _add_head(self, part: str, owner: str) -> None:
        """Add the head, and the embedding if it is another; `owner` has the embedding's weight."""
        decoder = self.decoder
        vocab, width = decoder.model["vocab_size"], decoder.model["n_embd"]
        decoder.tied = decoder.model["tie_embeddings"]
        if not decoder.tied:
            decoder.embedding = self._embedding(decoder, owner)
        tied = f"{owner}token_embedding.weight" if decoder.tied else ""
        decoder.head = self._packer.matrix(f"{part}head", vocab, width, tied=tied)

    def _embedding(self, stack: Stack, owner: str) -> Table:
        sizes = stack.model["vocab_size"], stack.model["n_embd"]
        return self._packer.table(f"{owner}token_embedding.weight", *sizes)

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


def _frequencies(model: dict[str, Any]) -> tuple[float, ...]:
    """Return the angles per position of RoPE, rounded as in `edgegpt.model.rotary`."""
    width, theta = model["head_dim"], np.float32(model["rope_theta"])
    powers = np.arange(0, width, 2).astype(np.float32) / np.float32(width)
    return tuple((np.float32(1.0) / theta**powers).tolist())
