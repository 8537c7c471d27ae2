"""Embeddings, positions and blocks: what a GPT, an encoder and a decoder have in common."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Rotary
from .config import GPTConfig
from .layers import Block, SubLayer, new_norm
from .positions import sinusoidal_table
from .rotary import rotary_table

__all__ = ["Stack"]


class Stack(nn.Module):
    """From token ids to the residual stream, and through the blocks."""

    def __init__(self, config: GPTConfig, *, causal: bool = True, sourced: bool = False) -> None:
        """Build embeddings and blocks; see `Block` for the last two arguments."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        if config.position == "sinusoidal":
            table = sinusoidal_table(config.block_size, config.n_embd)
            self.register_buffer("sinusoids", table, persistent=False)
        self._add_rotary_tables()
        if config.embedding_norm:
            self.norm_embedding = new_norm(config)
        self.dropout = nn.Dropout(config.dropout)
        blocks = nn.ModuleList(
            Block(config, kind, causal=causal, sourced=sourced) for kind in config.kinds
        )
        self.blocks = cast(list[Block], blocks)  # the type ModuleList has no element type
        if config.position == "relative" and config.relative_shared:
            for block in self.blocks[1:]:
                block.attention.relative.weight = self.blocks[0].attention.relative.weight
        self.norm_final = new_norm(config) if config.final_norm else nn.Identity()

    def embed(self, ids: Tensor, begin: Tensor | int = 0) -> Tensor:
        """Return the residual stream [B, T, C] that enters the first block.

        `ids` is int64 [B, T]; `begin` is the position of the first id, int64 [B] or one for all.
        """
        x: Tensor = self.token_embedding(ids)  # (B, T, C)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.position in ("learned", "sinusoidal"):
            first = begin.unsqueeze(1) if isinstance(begin, Tensor) else begin  # (B, 1)
            position = first + torch.arange(ids.shape[1], device=ids.device)  # (B, T) or (T,)
            x = x + self._at(position)
        return self.norm_embedding(x) if self.config.embedding_norm else x

    def _at(self, position: Tensor) -> Tensor:
        """Return what is added to the embeddings at some positions [...], [..., C]."""
        if self.config.position == "sinusoidal":
            return F.embedding(position, self.get_buffer("sinusoids"))
        learned: Tensor = self.position_embedding(position)
        return learned

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

    def sub_layers(self) -> list[SubLayer]:
        """Return the readers of the residual stream within the blocks, in order of computation."""
        return [
            layer.within(f"blocks.{index}")
            for index, block in enumerate(self.blocks)
            for layer in block.sub_layers()
        ]

    def writers(self) -> list[nn.Module]:
        """Return the modules whose outputs add up to the residual stream, the embeddings first."""
        embeddings: list[nn.Module] = [self.token_embedding]
        if self.config.position == "learned":
            embeddings.append(self.position_embedding)
        return [*embeddings, *(writer for block in self.blocks for writer in block.writers())]

    def tied_names(self) -> dict[str, str]:
        """Return a map from the name of each tied weight to the name of the weight it shares."""
        if self.config.position != "relative" or not self.config.relative_shared:
            return {}
        names = [f"blocks.{index}.attention.relative.weight" for index in range(len(self.blocks))]
        return dict.fromkeys(names[1:], names[0])

    def parameter_count(self) -> int:
        """Return the number of trained values; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
