"""The whole model: token ids in, next-token logits out."""

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .config import GPTConfig
from .layers import Block, Cache, Rotary, SubLayer, new_norm
from .rotary import rotary_table

__all__ = ["GPT"]


class GPT(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self._add_rotary_tables()
        self.dropout = nn.Dropout(config.dropout)
        blocks = nn.ModuleList(Block(config, kind) for kind in config.kinds)
        self.blocks = cast(list[Block], blocks)  # the type ModuleList has no element type
        self.norm_final = new_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor, past: list[Cache] | None = None) -> Tensor:
        """Return float logits [B, T, V] for int64 `ids` [B, T] on the plain path.

        If there is a `past`, it holds keys and values [B, K, P, D] of each layer for P earlier
        tokens, the keys after their rotation; P + T <= block_size.
        """
        length = ids.shape[1] + (0 if past is None else past[0][0].shape[2])
        if length > self.config.block_size:
            raise InvalidInputError(
                f"{length} tokens do not fit the block of {self.config.block_size}"
            )
        x = self.dropout(self.embed(ids, length - ids.shape[1]))  # (B, T, C)
        for index, (block, rotary) in enumerate(zip(self.blocks, self.rotary, strict=True)):
            x = block(x, rotary, None if past is None else past[index])
        return self.to_logits(x)

    def forward_cached(
        self, ids: Tensor, past_len: Tensor, logit_positions: Tensor, past: list[Cache]
    ) -> tuple[Tensor, list[Cache]]:
        """Return logits [B, P, V] and the new cache, for new tokens on top of a cache.

        `ids` int64 [B, T] are the new tokens. `past_len` int64 [B] is the number of filled slots
        of each row. `logit_positions` int64 [B, P] selects the new tokens whose logits are
        returned. `past` holds k and v [B, K, S, D] of each layer. The caller guarantees
        past_len + T <= S and past_len + T <= block_size. Rows may be padded on the right: the
        cache slots that padding writes are overwritten before any later token can see them.
        """
        x = self.embed(ids, past_len)  # (B, T, C)
        present = []
        for block, own, rotary in zip(self.blocks, past, self.rotary, strict=True):
            x, layer_present = block.forward_cached(x, own, past_len, rotary)
            present.append(layer_present)
        index = logit_positions.unsqueeze(2).expand(-1, -1, x.shape[-1])  # (B, P, C)
        return self.to_logits(x.gather(1, index)), present

    def embed(self, ids: Tensor, begin: Tensor | int = 0) -> Tensor:
        """Return the residual stream [B, T, C] that enters the first block.

        `ids` is int64 [B, T]; `begin` is the position of the first id, int64 [B] or one for all.
        """
        x: Tensor = self.token_embedding(ids)  # (B, T, C)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.position == "learned":
            first = begin.unsqueeze(1) if isinstance(begin, Tensor) else begin  # (B, 1)
            position = first + torch.arange(ids.shape[1], device=ids.device)  # (B, T) or (T,)
            x = x + self.position_embedding(position)
        return x

    def to_logits(self, x: Tensor) -> Tensor:
        """Return float logits [B, T, V] of the residual stream [B, T, C] after the last block."""
        logits: Tensor = self.head(self.norm_final(x))
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    @property
    def rotary(self) -> list[Rotary]:
        """The rotary table of each layer, cos and sin [block_size, R]; None: no rotation."""
        buffers = dict(self.named_buffers(recurse=False))
        return [
            (buffers[f"rotary_cos_{table}"], buffers[f"rotary_sin_{table}"])
            if kind.rotary
            else None
            for kind, table in zip(self.config.kinds, self._table_of_layer, strict=True)
        ]

    def _add_rotary_tables(self) -> None:
        """Register one table for each distinct rotation; they are not part of a checkpoint."""
        settings = [(kind.rotary, kind.rotary_factor) for kind in self.config.kinds]
        distinct = list(dict.fromkeys(settings))
        self._table_of_layer = [distinct.index(each) for each in settings]
        for index, (angles, factor) in enumerate(distinct):
            if angles:
                cos, sin = rotary_table(self.config.block_size, angles, factor)
                self.register_buffer(f"rotary_cos_{index}", cos, persistent=False)
                self.register_buffer(f"rotary_sin_{index}", sin, persistent=False)

    def empty_cache(self, batch: int, slots: int) -> list[Cache]:
        """Return the `past` of `forward_cached` before the first token: zeros."""
        return [block.attention.empty_cache(batch, slots) for block in self.blocks]

    def sub_layers(self) -> list[SubLayer]:
        """Return all readers of the residual stream in the order of computation, the head last."""
        return [
            *(
                layer.within(f"blocks.{index}")
                for index, block in enumerate(self.blocks)
                for layer in block.sub_layers()
            ),
            SubLayer("head", "norm_final"),
        ]

    def writers(self) -> list[nn.Module]:
        """Return the modules whose outputs add up to the residual stream, the embeddings first."""
        embeddings: list[nn.Module] = [self.token_embedding]
        if self.config.position == "learned":
            embeddings.append(self.position_embedding)
        return [*embeddings, *(writer for block in self.blocks for writer in block.writers())]

    def tied_names(self) -> dict[str, str]:
        """Return a map from the name of each tied weight to the name of the weight it shares."""
        return {"head.weight": "token_embedding.weight"} if self.config.tie_embeddings else {}

    def parameter_count(self) -> int:
        """Return the number of trained values; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

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
