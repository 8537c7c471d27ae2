"""The whole model: token ids in, next-token logits out."""

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .attention import Cache
from .config import GPTConfig
from .layers import Source, SubLayer
from .stack import Stack

__all__ = ["GPT"]


class GPT(Stack):
    """Token ids in, next-token logits out."""

    def __init__(self, config: GPTConfig, *, sourced: bool = False) -> None:
        """Build the layers; if `sourced`, they attend to a source, too (see `Seq2Seq`)."""
        super().__init__(config, sourced=sourced)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(
        self, ids: Tensor, past: list[Cache] | None = None, sources: list[Source] | None = None
    ) -> Tensor:
        """Return float logits [B, T, V] for int64 `ids` [B, T] on the plain path.

        If there is a `past`, it holds keys and values [B, K, P, D] of each layer for P earlier
        tokens, the keys after their rotation; P + T <= block_size. `sources` has what each layer
        of a decoder attends to, one source a row.
        """
        length = ids.shape[1] + (0 if past is None else past[0][0].shape[2])
        if length > self.config.block_size:
            raise InvalidInputError(
                f"{length} tokens do not fit the block of {self.config.block_size}"
            )
        x = self.dropout(self.embed(ids, length - ids.shape[1]))  # (B, T, C)
        for index, (block, rotary) in enumerate(zip(self.blocks, self.rotary, strict=True)):
            own = None if past is None else past[index]
            x = block(x, rotary, own, None, None if sources is None else sources[index])
        return self.to_logits(x)

    def forward_cached(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        past: list[Cache],
        sources: list[Source] | None = None,
    ) -> tuple[Tensor, list[Cache]]:
        """Return logits [B, P, V] and the new cache, for new tokens on top of a cache.

        `ids` int64 [B, T] are the new tokens. `past_len` int64 [B] is the number of filled slots
        of each row. `logit_positions` int64 [B, P] selects the new tokens whose logits are
        returned. `past` holds k and v [B, K, S, D] of each layer. The caller guarantees
        past_len + T <= S and past_len + T <= block_size. Rows may be padded on the right: the
        cache slots that padding writes are overwritten before any later token can see them.
        `sources` has what each layer of a decoder attends to; the rows of a source lie together.
        """
        x = self.embed(ids, past_len)  # (B, T, C)
        present = []
        each = [None] * len(past) if sources is None else sources
        for block, own, rotary, source in zip(self.blocks, past, self.rotary, each, strict=True):
            x, layer_present = block.forward_cached(x, own, past_len, rotary, source)
            present.append(layer_present)
        index = logit_positions.unsqueeze(2).expand(-1, -1, x.shape[-1])  # (B, P, C)
        return self.to_logits(x.gather(1, index)), present

    def to_logits(self, x: Tensor) -> Tensor:
        """Return float logits [B, T, V] of the residual stream [B, T, C] after the last block."""
        logits: Tensor = self.head(self.norm_final(x))
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def empty_cache(self, batch: int, slots: int) -> list[Cache]:
        """Return the `past` of `forward_cached` before the first token: zeros."""
        return [block.attention.empty_cache(batch, slots) for block in self.blocks]

    def sub_layers(self) -> list[SubLayer]:
        """Return all readers of the residual stream in the order of computation, the head last."""
        norm = "norm_final" if self.config.final_norm else None
        return [*super().sub_layers(), SubLayer("head", norm)]

    def tied_names(self) -> dict[str, str]:
        """Return a map from the name of each tied weight to the name of the weight it shares."""
        head = {"head.weight": "token_embedding.weight"} if self.config.tie_embeddings else {}
        return super().tied_names() | head

    def _initialise(self) -> None:
        """Apply GPT-2's scheme: N(0, 0.02), narrower for weights that write to the stream."""
        narrower = {
            part.weight
            for block in self.blocks
            for part in (block.attention.proj, block.feed_forward.down)
        }
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                shrink = (2 * self.config.n_layer) ** -0.5 if parameter in narrower else 1.0
                nn.init.normal_(parameter, std=0.02 * shrink)
