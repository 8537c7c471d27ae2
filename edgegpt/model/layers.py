"""The parts of a transformer beside attention: feed-forward, norm, and the block."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, Cache, Rotary, SourceAttention
from .config import GPTConfig, LayerKind

__all__ = ["Block", "FeedForward", "Source", "SubLayer", "new_norm"]

Source = tuple[Cache, Tensor]  # keys and values [G, H, N, D] of sources, and lengths int64 [G]


@dataclass(frozen=True)
class SubLayer:
    """A part that reads the residual stream, and the names of the norms around it.

    `norm` is of what it reads, `norm_out` of what it writes, `norm_sum` of the stream after it.
    """

    name: str
    norm: str | None
    norm_out: str | None = None
    norm_sum: str | None = None

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of the norms that there are, in the order of computation."""
        return tuple(name for name in (self.norm, self.norm_out, self.norm_sum) if name)

    def within(self, block: str) -> "SubLayer":
        """Return the same sub-layer, with names that begin with the block's."""
        norms = (name and f"{block}.{name}" for name in (self.norm, self.norm_out, self.norm_sum))
        return SubLayer(f"{block}.{self.name}", *norms)

    @property
    def block(self) -> str:
        """The name of the block that contains the sub-layer; empty for the head."""
        return self.name.rpartition(".")[0]


class FeedForward(nn.Module):
    """Widen, apply the non-linearity, narrow; or gate the widened input (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        self.up = nn.Linear(config.n_embd, config.n_ff, bias=config.ff_bias)
        if config.gated:
            self.gate = nn.Linear(config.n_embd, config.n_ff, bias=config.ff_bias)
        self.down = nn.Linear(config.n_ff, config.n_embd, bias=config.ff_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, C] to [B, T, C], each token independently."""
        wide = self.up(x)  # (B, T, n_ff)
        wide = self._activated(self.gate(x)) * wide if self.gated else self._activated(wide)
        narrow: Tensor = self.dropout(self.down(wide))
        return narrow

    def _activated(self, x: Tensor) -> Tensor:
        if self.activation == "silu":
            return F.silu(x)
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "relu2":  # So et al. 2021, "Primer"
            return F.relu(x) ** 2
        return F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")


def new_norm(config: GPTConfig) -> nn.Module:
    """Return a new normalisation module for the residual stream."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.norm_bias)


class Block(nn.Module):
    """One layer: its sub-layers, each with its norms, added to the stream.

    These are attention and feed-forward. In a decoder that makes a text from a source, attention to
    the source comes between them.
    """

    def __init__(
        self, config: GPTConfig, kind: LayerKind, *, causal: bool = True, sourced: bool = False
    ) -> None:
        super().__init__()
        self.parallel, self.scale = config.parallel, config.residual_scale

        def norm(*placements: str) -> nn.Module:
            return new_norm(config) if config.norm_placement in placements else nn.Identity()

        self.norm_1 = norm("pre", "sandwich")  # of what the sub-layer reads
        self.attention = Attention(config, kind, causal=causal)
        self.norm_1_out = norm("output", "sandwich")  # of what it writes
        self.norm_1_sum = norm("post")  # of the stream after it
        if sourced:
            self.norm_source = norm("pre", "sandwich")
            self.source_attention = SourceAttention(config)
            self.norm_source_out = norm("output", "sandwich")
            self.norm_source_sum = norm("post")
        self.norm_2 = norm("pre", "sandwich")
        self.feed_forward = FeedForward(config)
        self.norm_2_out = norm("output", "sandwich")
        self.norm_2_sum = norm("post")

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        past: Cache | None = None,
        lengths: Tensor | None = None,
        source: Source | None = None,
    ) -> Tensor:
        """Map the residual stream [B, T, C] to the next one."""
        attended = self.attention(self.norm_1(x), rotary, past, lengths)
        y = self._joined(x, attended, self.norm_1_out, self.norm_1_sum)
        if source is not None:
            attended = self.source_attention(self.norm_source(y), *source)
            y = self._joined(y, attended, self.norm_source_out, self.norm_source_sum)
        return self._with_feed_forward(x, y)

    def forward_cached(
        self,
        x: Tensor,
        past: Cache,
        past_len: Tensor,
        rotary: Rotary,
        source: Source | None = None,
    ) -> tuple[Tensor, Cache]:
        """Do the same as `forward` for new tokens on top of a cache; return the new cache, too."""
        attended, present = self.attention.forward_cached(self.norm_1(x), past, past_len, rotary)
        y = self._joined(x, attended, self.norm_1_out, self.norm_1_sum)
        if source is not None:
            attended = self.source_attention.forward_cached(self.norm_source(y), *source)
            y = self._joined(y, attended, self.norm_source_out, self.norm_source_sum)
        return self._with_feed_forward(x, y), present

    def forward_source(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Do the same as `forward` for texts [G, N, C] that are seen as a whole."""
        attended = self.attention.forward_source(self.norm_1(x), lengths)
        y = self._joined(x, attended, self.norm_1_out, self.norm_1_sum)
        return self._with_feed_forward(x, y)

    def _with_feed_forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the stream after the block, from the one before it and the one so far."""
        read = x if self.parallel else y
        written = self.feed_forward(self.norm_2(read))
        return self._joined(y, written, self.norm_2_out, self.norm_2_sum)

    def _joined(self, x: Tensor, written: Tensor, out: nn.Module, total: nn.Module) -> Tensor:
        """Return the stream after a sub-layer, from the one before it and what it wrote."""
        added = out(written)
        result: Tensor = total(x + (added if self.scale == 1.0 else added * self.scale))
        return result

    def sub_layers(self) -> tuple[SubLayer, ...]:
        """Return its sub-layers in the order of `forward`, named within the block."""
        return tuple(
            self._sub_layer(name, norm)
            for name, norm in (
                ("attention", "norm_1"),
                ("source_attention", "norm_source"),
                ("feed_forward", "norm_2"),
            )
            if hasattr(self, name)
        )

    def _sub_layer(self, name: str, norm: str) -> SubLayer:
        norms = (norm, f"{norm}_out", f"{norm}_sum")
        return SubLayer(
            name,
            *(
                None if isinstance(self.get_submodule(each), nn.Identity) else each
                for each in norms
            ),
        )

    def writers(self) -> tuple[nn.Module, ...]:
        """Return the modules whose outputs are added to the residual stream."""
        last = {"attention": "proj", "source_attention": "proj", "feed_forward": "down"}
        return tuple(
            self.get_submodule(layer.norm_out or f"{layer.name}.{last[layer.name]}")
            for layer in self.sub_layers()
        )
