"""Where a family keeps its weights, and how they become ours.

A `Layout` names a family's tensors. `plan.plan` turns it into one `Weight` for each parameter of
our model: the source's tensors that it is made of, their shapes, and the change of each, so that
everything is checked against the headers before a value is read.

What our model has no switch for is folded into weights: norms that multiply by 1 + w, a factor on
the logits, a rotation of neighbouring pairs, packed projections, missing norms, positions that are
computed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model import GPTConfig

__all__ = [
    "LLAMA",
    "Change",
    "Layout",
    "Piece",
    "Shape",
    "Values",
    "Weight",
    "by_group",
    "in_halves",
]

Shape = tuple[int, ...]
Change = Callable[[Tensor], Tensor]
Unpack = Callable[[Tensor, GPTConfig], Tensor]
Values = Callable[[Shape], Tensor]


@dataclass(frozen=True)
class Piece:
    """A tensor of the source and what becomes of it.

    Attributes:
        name: the source's name.
        shape: the shape that it must have there.
        change: from the source's layout to rows of ours; None: it stays as it is.
        exact: whether `change` only moves values, so that the source's type still holds them.
    """

    name: str
    shape: Shape
    change: Change | None = None
    exact: bool = True


@dataclass(frozen=True)
class Weight:
    """A parameter of our model: the pieces whose rows it consists of.

    Without pieces it is what `values` returns for its shape, in float32.
    """

    shape: Shape
    pieces: tuple[Piece, ...]
    values: Values = torch.ones


@dataclass(frozen=True)
class Layout:
    """The names of a family's tensors, and what is folded into them.

    Names of modules are without `.weight` and `.bias`; those from `norm_1` to `gate_up` are within
    `layer`, whose braces stand for the layer's number. None: the family has no such tensor. A stack
    of an encoder-decoder has a layout of its own.

    Attributes:
        q, k, v: braces, if any, stand for the head's number: each head has a tensor of its own.
        prefix: left out by files that were saved without the head.
        qkv: one tensor for queries, keys and values; `unpack` gives our order of its rows.
        relative: the biases by distance.
        source_qkv: as `qkv`, of the attention to a source, in the order queries, keys, values.
        gate_up: one tensor for the gate and the widened input, the gate first.
        head_bias: a tensor [1, vocab_size] that is added to the logits, by its whole name.
        paired_rotary: values 2i and 2i + 1 of a head are rotated together, not i and i + R.
        norm_offset: added to the weights of all norms.
        final_scale: factor on the logits, which goes into the final norm.
        transposed: linear layers are stored as [in, out].
        position_offset: rows of the position table before that of the first token.
        position_table: computes the position table [block_size, n_embd], which is then no tensor.
        table_change: change of the token embedding, which must then not be tied.
        qk_change: move of the rows of queries or keys [heads, D, ...], before all others.
        query_factor: factor on the queries of a layer, by its number.
        ignored: patterns of tensors that hold nothing trained, such as masks.
    """

    prefix: str = "model."
    token: str = "model.embed_tokens"
    position: str | None = None
    norm_embedding: str | None = None
    layer: str = "model.layers.{}."
    norm_1: str | None = "input_layernorm"
    norm_1_out: str | None = None
    norm_1_sum: str | None = None
    norm_source: str | None = None
    norm_source_sum: str | None = None
    norm_2: str | None = "post_attention_layernorm"
    norm_2_out: str | None = None
    norm_2_sum: str | None = None
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    qkv: str | None = None
    unpack: Unpack | None = None
    q_norm: str | None = "self_attn.q_norm"
    k_norm: str | None = "self_attn.k_norm"
    relative: str | None = None
    proj: str = "self_attn.o_proj"
    source_q: str = "encoder_attn.q_proj"
    source_k: str = "encoder_attn.k_proj"
    source_v: str = "encoder_attn.v_proj"
    source_qkv: str | None = None
    source_proj: str = "encoder_attn.out_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    gate_up: str | None = None
    final: str | None = "model.norm"
    head: str = "lm_head"
    head_bias: str | None = None
    paired_rotary: bool = False
    norm_offset: float = 0.0
    final_scale: float = 1.0
    transposed: bool = False
    position_offset: int = 0
    position_table: Values | None = None
    table_change: Change | None = None
    qk_change: Change | None = None
    query_factor: Callable[[int], float] | None = None
    ignored: tuple[str, ...] = field(default=(r".*\.rotary_emb\.inv_freq",))

    def ignores(self, name: str) -> bool:
        """Return whether the tensor `name` holds nothing trained."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def copies(self, config: GPTConfig) -> dict[str, str]:
        """Return tensors that a file may repeat, with the parameters of ours that they equal."""
        return {f"{self.head}.weight": "token_embedding.weight"} if config.tie_embeddings else {}


LLAMA = Layout()


def in_halves(x: Tensor, rotated: int) -> Tensor:
    """Move the pairs (2i, 2i + 1) of heads [heads, D, ...] to (i, i + R) for 2R rotated values.

    The same move of queries and keys leaves their products as they are.
    """
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, x.shape[1])]
    return x[:, order]


def by_group(w: Tensor, config: GPTConfig) -> Tensor:
    """Sort the rows [(H + 2K) * D, ...] of a packed projection that go by key/value heads.

    They come as the queries that share a key, that key, and its value, for one group after the
    other. With one group this is the order of ours, with as many as heads that of GPT-NeoX.
    """
    groups = w.unflatten(0, (config.n_kv_head, -1, config.head_dim))  # (K, H / K + 2, D, ...)
    parts = groups.tensor_split([-2, -1], dim=1)
    return torch.cat([part.flatten(0, 2) for part in parts])
