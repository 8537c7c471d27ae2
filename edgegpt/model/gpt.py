"""The whole model: token ids in, next-token logits out."""

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .config import GPTConfig
from .layers import Block, new_norm
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
        else:
            cos, sin = rotary_table(config.block_size, config.head_dim, config.rope_theta)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_final = new_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return float logits [B, T, V] for int64 `ids` [B, T], T <= block_size; no cache."""
        length = ids.shape[1]
        if length > self.config.block_size:
            raise InvalidInputError(
                f"{length} tokens do not fit the block of {self.config.block_size}"
            )
        x = self.token_embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            x = x + self.position_embedding(torch.arange(length, device=ids.device))  # (T, C)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self._rotary())
        return self.head(self.norm_final(x))

    def forward_cached(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits [B, P, V] and the new cache, for new tokens on top of a cache.

        `ids` int64 [B, T]; `past_len` int64 [B], how many slots each row has filled;
        `logit_positions` int64 [B, P], which of the T new tokens to give logits for; `past`, per
        layer k and v [B, K, S, D]. The caller guarantees past_len + T <= S and
        past_len + T <= block_size. Rows may be padded on the right: what padding writes to the
        cache is overwritten before any later token can see it.
        """
        x = self.token_embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            new = torch.arange(ids.shape[1], device=ids.device)  # (T,)
            x = x + self.position_embedding(past_len.unsqueeze(1) + new)  # (B, T, C)
        present = []
        for block, layer_past in zip(self.blocks, past, strict=True):
            x, layer_present = block.forward_cached(x, layer_past, past_len, self._rotary())
            present.append(layer_present)
        index = logit_positions.unsqueeze(2).expand(-1, -1, x.shape[-1])  # (B, P, C)
        return self.head(self.norm_final(x.gather(1, index))), present

    def parameter_count(self) -> int:
        """Return how many numbers are trained, a tied weight counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _rotary(self) -> tuple[Tensor, Tensor] | None:
        if self.config.position == "learned":
            return None
        return self.rotary_cos, self.rotary_sin

    def _initialise(self) -> None:
        """GPT-2's scheme: N(0, 0.02), narrower where a sub-layer joins the residual stream."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                joins_residual = name.endswith(
                    ("attention.proj.weight", "feed_forward.down.weight")
                )
                shrink = (2 * self.config.n_layer) ** -0.5 if joins_residual else 1.0
                nn.init.normal_(parameter, std=0.02 * shrink)
