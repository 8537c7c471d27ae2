"""Golden beams: what a search finds with the logits of PyTorch's plain path."""

from collections.abc import Sequence

import numpy as np
import torch

from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.golden import Beams
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.generation.beams import BeamSearch
from edgegpt.runtime.proof.beams import BEAMS, new_searches
from edgegpt.runtime.proof.tolerances import TOLERANCES

from ..reader import Attending, exact_logits

__all__ = ["golden_beams"]


def golden_beams(model: Seq2Seq, sources: Sequence[list[int]], usage: Usage) -> list[Beams]:
    """Return what a search finds for each source."""
    config = model.config.decoder
    searches = new_searches(
        usage, config.block_size, config.vocab_size, len(sources), TOLERANCES["float32"]
    )
    return [_found(model, *pair) for pair in zip(sources, searches, strict=True)]


def _found(model: Seq2Seq, source: list[int], search: BeamSearch) -> Beams:
    """Run a search; each step reads all texts anew, without a cache."""
    reader, scale = Attending(model, [source] * BEAMS), 0.0
    while not search.done:
        logits = (
            exact_logits(reader, torch.tensor(search.texts))[:, -1].float().numpy()
        )  # (beams, V)
        scale = max(scale, float(np.abs(logits).max()))
        search.advance(logits)
    best = search.best()
    return Beams(
        source=np.array(source, dtype=np.int64),
        texts=[np.array(one.ids, dtype=np.int64) for one in best],
        scores=np.array([one.score for one in best], dtype=np.float32),
        scale=scale,
        near_tie=search.near_tie,
    )
