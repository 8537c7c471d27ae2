"""The encoder-decoder transformer: a source and the text so far in, next-token logits out.

Vaswani et al. 2017, "Attention Is All You Need". Encoder and decoder are stacks of the layers that
make up a GPT. The encoder sees its text as a whole; each layer of the decoder attends to what the
encoder made of it, too.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .attention import Cache
from .config import GPTConfig
from .gpt import GPT
from .layers import Source, SubLayer
from .stack import Stack

__all__ = ["Encoder", "Seq2Seq", "Seq2SeqConfig"]


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The shape of an encoder-decoder: two stacks, each with the settings of a GPT.

    The encoder has no head, so its settings of a head say nothing. `shared_embedding`: both stacks
    have one token embedding, over one vocabulary; with the decoder's `tie_embeddings`, so has the
    head.
    """

    encoder: GPTConfig
    decoder: GPTConfig
    shared_embedding: bool = True

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        if encoder.n_embd != decoder.n_embd:
            raise InvalidInputError(
                f"the encoder is {encoder.n_embd} wide and the decoder {decoder.n_embd}; they must "
                f"be equal"
            )
        if self.shared_embedding and encoder.vocab_size != decoder.vocab_size:
            raise InvalidInputError(
                f"the vocabularies of {encoder.vocab_size} and {decoder.vocab_size} ids cannot "
                f"share an embedding"
            )
        cannot = {
            "rotary positions": encoder.position == "rope",
            "windows": any(kind.window for kind in encoder.kinds),
            "fewer key heads than query heads": encoder.n_kv_head != encoder.n_head,
            "capped scores": bool(encoder.attention_softcap),
        }
        for what, there in cannot.items():
            if there:
                raise InvalidInputError(f"an encoder with {what} is not supported")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Seq2SeqConfig":
        """Build a config from parsed JSON or TOML; the error names unknown and missing keys."""
        unknown = sorted(set(values) - {"encoder", "decoder", "shared_embedding"})
        if unknown:
            raise InvalidInputError(f"unknown model setting: {', '.join(unknown)}")
        stacks = {}
        for name in ("encoder", "decoder"):
            if not isinstance(values.get(name), dict):
                raise InvalidInputError(f"missing model setting: the table {name}")
            stacks[name] = GPTConfig.from_dict(values[name])
        shared = values.get("shared_embedding", True)
        if not isinstance(shared, bool):
            raise InvalidInputError(
                f"shared_embedding is {shared!r:.60}, which is not true or false"
            )
        return cls(**stacks, shared_embedding=shared)

    @property
    def block_size(self) -> int:
        """The most tokens of a source or a text, whichever may be longer."""
        return max(self.encoder.block_size, self.decoder.block_size)

    def limited(self, context: int) -> "Seq2SeqConfig":
        """Return the settings of the same model for sources and texts of at most `context` tokens.

        A shorter stack stays as it is.
        """
        if not 1 <= context <= self.block_size:
            raise InvalidInputError(
                f"context is {context}; the model can see 1 to {self.block_size} tokens"
            )
        return replace(
            self,
            encoder=self.encoder.limited(min(context, self.encoder.block_size)),
            decoder=self.decoder.limited(min(context, self.decoder.block_size)),
        )

    def cut_by(self, context: int) -> list[str]:
        """Return what `limited` leaves out, as sentences for the user."""
        cut = (("sources", self.encoder), ("texts", self.decoder))
        return [
            f"of {name} {sentence}" for name, stack in cut for sentence in stack.cut_by(context)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON has them, the filled-in ones included."""
        stacks = {"encoder": self.encoder.to_dict(), "decoder": self.decoder.to_dict()}
        return stacks | {"shared_embedding": self.shared_embedding}


class Encoder(Stack):
    """From the ids of sources to the stream that a decoder attends to."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config, causal=False)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the stream [G, N, C] for int64 `ids` [G, N] on the plain path.

        Source g has its `lengths[g]` (int64, at least 1) tokens first; what stands behind them
        changes nothing but its own places.
        """
        x = self.dropout(self.embed(ids))  # (G, N, C)
        for block in self.blocks:
            x = block(x, None, None, lengths)
        return self._final(x)

    def forward_source(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the same as `forward`, by the operator that is exported."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block.forward_source(x, lengths)
        return self._final(x)

    def _final(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.norm_final(x))
        return result


class Seq2Seq(nn.Module):
    """A source and the text so far in, next-token logits out."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.decoder = GPT(config.decoder, sourced=True)
        if config.shared_embedding:
            self.encoder.token_embedding.weight = self.decoder.token_embedding.weight
        self._initialise()

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Return float logits [G, T, V] for the ids `target` [G, T] on the plain path.

        `source` is int64 [G, N], and `lengths` int64 [G] its number of tokens. Row g of the target
        is made from source g.
        """
        stream = self.encoder(source, lengths)
        logits: Tensor = self.decoder(target, None, self.sources(stream, lengths))
        return logits

    def sources(self, stream: Tensor, lengths: Tensor) -> list[Source]:
        """Return what each layer of the decoder attends to: keys, values [G, H, N, D], lengths."""
        return [
            (block.source_attention.keys_values(stream), lengths) for block in self.decoder.blocks
        ]

    def encode(self, source: Tensor, lengths: Tensor) -> list[Cache]:
        """Return keys and values [G, H, N, D] for each layer of the decoder, as exported."""
        stream = self.encoder.forward_source(source, lengths)
        return [cache for cache, _ in self.sources(stream, lengths)]

    @property
    def head(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.decoder.head

    def sub_layers(self) -> list[SubLayer]:
        """Return all readers of the two residual streams, those of the encoder first."""
        return [
            layer.within(part)
            for part, stack in (("encoder", self.encoder), ("decoder", self.decoder))
            for layer in stack.sub_layers()
        ]

    def writers(self) -> list[nn.Module]:
        """Return the modules whose outputs add up to the residual streams."""
        return [*self.encoder.writers(), *self.decoder.writers()]

    def tied_names(self) -> dict[str, str]:
        """Return a map from the name of each tied weight to the name of the weight it shares."""
        tied = {
            f"{part}.{name}": f"{part}.{own}"
            for part, stack in (("encoder", self.encoder), ("decoder", self.decoder))
            for name, own in stack.tied_names().items()
        }
        if not self.config.shared_embedding:
            return tied
        shared = {"decoder.token_embedding.weight": "encoder.token_embedding.weight"}
        return {name: shared.get(own, own) for name, own in tied.items()} | shared

    def parameter_count(self) -> int:
        """Return the number of trained values; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def _initialise(self) -> None:
        """Glorot and Bengio 2010 for matrices; embeddings have the norm 1, whatever their width."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for stack in (self.encoder, self.decoder):
            nn.init.normal_(stack.token_embedding.weight, std=self.config.decoder.n_embd**-0.5)
