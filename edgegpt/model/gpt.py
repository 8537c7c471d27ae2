"""The whole model: token ids in, next-token logits out."""

from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .config import GPTConfig
from .layers import Block, SubLayer, new_norm
from .rotary import rotary_table

__all__ = ["GPT"]


class GPT(nn.Module):
    """Token ids in, next-token logits out."""

    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        else:
            cos, sin = rotary_table(config.block_size, config.head_dim, config.rope_theta)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.blocks = cast(list[Block], blocks)  # the type ModuleList has no element type
        self.norm_final = new_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor, past: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Return float logits [B, T, V] for int64 `ids` [B, T], with no cache.

        `past` holds keys and values [B, K, P, D] of each layer for P tokens before `ids`, the keys
        rotated, as they lie in a cache. P + T must not be more than block_size.
        """
        start = past[0][0].shape[2] if past else 0
        length = start + ids.shape[1]
        if length > self.config.block_size:
            raise InvalidInputError(
                f"{length} tokens do not fit the block of {self.config.block_size}"
            )
        past_len = None if past is None else ids.new_full(ids.shape[:1], start)
        x = self.dropout(self.embed(ids, past_len))  # (B, T, C)
        for index, block in enumerate(self.blocks):
            x = block(x, self.rotary, None if past is None else past[index])
        logits: Tensor = self.head(self.norm_final(x))
        return logits

    def forward_cached(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits [B, P, V] and the new cache, for new tokens on top of a cache.

        `ids` int64 [B, T] are the new tokens. `past_len` int64 [B] is the number of filled slots
        of each row. `logit_positions` int64 [B, P] selects the new tokens whose logits are
        returned. `past` holds k and v [B, K, S, D] of each layer. The caller guarantees
        past_len + T <= S and past_len + T <= block_size. Rows may be padded on the right: the
        cache slots that padding writes are overwritten before any later token can see them.
        """
        x = self.embed(ids, past_len)  # (B, T, C)
        present = []
        for block, layer_past in zip(self.blocks, past, strict=True):
            x, layer_present = block.forward_cached(x, layer_past, past_len, self.rotary)
            present.append(layer_present)
        index = logit_positions.unsqueeze(2).expand(-1, -1, x.shape[-1])  # (B, P, C)
        return self.head(self.norm_final(x.gather(1, index))), present

    def embed(self, ids: Tensor, past_len: Tensor | None = None) -> Tensor:
        """Return the residual stream [B, T, C] that enters the first block.

        `ids` is int64 [B, T]; `past_len` int64 [B] is the number of tokens before each row's ids.
        """
        x: Tensor = self.token_embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            position = torch.arange(ids.shape[1], device=ids.device)  # (T,)
            if past_len is not None:
                position = past_len.unsqueeze(1) + position  # (B, T)
            x = x + self.position_embedding(position)
        return x

    @property
    def rotary(self) -> tuple[Tensor, Tensor] | None:
        """The rotary tables of all blocks, cos and sin [block_size, D/2]; None without RoPE."""
        if self.config.position == "learned":
            return None
        return self.rotary_cos, self.rotary_sin

    def empty_cache(self, batch: int, slots: int) -> list[tuple[Tensor, Tensor]]:
        """Return the `past` of `forward_cached` before the first token: zeros."""
        return [block.attention.empty_cache(batch, slots) for block in self.blocks]

    def sub_layers(self) -> list[SubLayer]:
        """Return all readers of the residual stream in the order of computation, the head last."""
        return [
            *(
                SubLayer(f"blocks.{index}.{layer.name}", f"blocks.{index}.{layer.norm}")
                for index, block in enumerate(self.blocks)
                for layer in block.sub_layers()
            ),
            SubLayer("head", "norm_final"),
        ]

    def writers(self) -> list[nn.Embedding | nn.Linear]:
        """Return the modules whose outputs add up to the residual stream, the embeddings first."""
        embeddings = [self.token_embedding]
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
        narrower = {writer.weight for block in self.blocks for writer in block.writers()}
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                shrink = (2 * self.config.n_layer) ** -0.5 if parameter in narrower else 1.0
                nn.init.normal_(parameter, std=0.02 * shrink)
