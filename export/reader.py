"""What reads a text: a GPT, or the decoder of an encoder-decoder with the sources of its rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgegpt.model import GPT, GPTConfig, Seq2Seq
from edgegpt.model.attention import Cache
from edgegpt.runtime.generation.prefill import pad

from .exact import Exact

__all__ = ["Attending", "Reader", "exact_logits"]


class Attending:
    """The decoder of an encoder-decoder with one source for each row, used like a GPT.

    The encoder runs on its plain path.
    """

    @torch.no_grad()
    def __init__(self, model: Seq2Seq, sources: Sequence[Sequence[int]]) -> None:
        """Encode the sources, which are lists of ids."""
        self.decoder = model.decoder
        ids, lengths = (torch.from_numpy(array) for array in pad(sources))  # (G, N), (G,)
        with Exact():
            self.exact_sources = model.sources(model.encoder(ids, lengths), lengths)
        self.sources = [((k.float(), v.float()), lengths) for (k, v), lengths in self.exact_sources]

    @property
    def config(self) -> GPTConfig:
        """The settings of the decoder."""
        return self.decoder.config

    def __call__(self, ids: Tensor, past: list[Cache] | None = None) -> Tensor:
        """Return float logits [G, T, V]; see `GPT.forward`."""
        logits: Tensor = self.decoder(ids, past, self.sources)
        return logits

    def forward_cached(
        self, ids: Tensor, past_len: Tensor, logit_positions: Tensor, past: list[Cache]
    ) -> tuple[Tensor, list[Cache]]:
        """Return logits [G, P, V] and the new cache; see `GPT.forward_cached`."""
        return self.decoder.forward_cached(ids, past_len, logit_positions, past, self.sources)

    def empty_cache(self, batch: int, slots: int) -> list[Cache]:
        """Return the cache before the first token."""
        return self.decoder.empty_cache(batch, slots)


Reader = GPT | Attending


@torch.no_grad()
def exact_logits(reader: Reader, ids: Tensor, past: list[Cache] | None = None) -> Tensor:
    """Return logits [G, T, V] in float64; see `GPT.forward`."""
    with Exact():
        if isinstance(reader, GPT):
            logits: Tensor = reader(ids, past)
        else:
            logits = reader.decoder(ids, past, reader.exact_sources)
    return logits
