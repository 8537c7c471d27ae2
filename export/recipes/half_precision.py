"""A model that computes in float16 or bfloat16, proved against the one in float32.

Parts that would overflow in float16 on held-out text stay in float32.
"""

from dataclasses import replace

import torch
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import InvalidInputError, NumericalError
from edgegpt.model import GPT, GPTConfig, Seq2Seq
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.vocabulary import Precision
from edgegpt.runtime.proof.tolerances import TOLERANCES

from ..half_precision import (
    DTYPES,
    WIDER,
    factors_fit,
    in_half_precision,
    matching_layers,
    round_as,
)
from ..lowerings import LOWERINGS
from ..pair_texts import held_out_pairs
from ..range_probe import too_large
from ..settings import AUTO, ExportSettings
from .base import Content, Progress, Recipe
from .parts import decoders, golden_vectors, held_out_windows, lowerings_for

__all__ = ["HALF_PRECISION"]

PROBED_WINDOWS, PROBED_PAIRS = 32, 256  # of held-out text, for the largest values
COMPARED = 256  # tokens, before and after the weights are rounded


def _make(
    source: Checkpoint, precision: Precision, settings: ExportSettings, progress: Progress
) -> Content:
    if settings.keep_fp32 == AUTO:
        raise InvalidInputError(
            f"keep_fp32 cannot be {AUTO!r} in {precision}: what would overflow is kept without "
            f"being asked for; name the layers to keep besides"
        )
    lowerings_for(source.config, LOWERINGS, settings)  # refused before the work
    kept = matching_layers(skeleton(source.config), settings.keep_fp32 or ())
    if precision == "float16":  # bfloat16 has the range of float32
        progress("looking for values that float16 cannot hold", 0, 0)
        kept |= too_large(source.model, _texts(source)).keys()
    narrow = in_half_precision(skeleton(source.config), precision, kept)
    _round_as(narrow, source.model, precision)
    golden = golden_vectors(source, source.model, progress)
    golden = replace(golden, rounded=factors_fit(source.config, precision))
    source.release()
    graphs = decoders(narrow, source.weights, settings, progress)
    return Content(golden, graphs, kept=tuple(sorted(kept)))


@torch.no_grad()
def _round_as(narrow: GPT | Seq2Seq, model: GPT | Seq2Seq, precision: Precision) -> None:
    """Round the weights of a float32 model to those that the bundle will have.

    Raises:
        NumericalError: if its results are others then.
    """
    ids = torch.arange(COMPARED)[None]
    if isinstance(model, GPT):
        text: tuple[Tensor, ...] = (_within(ids, model.config),)
    else:
        source = _within(ids, model.config.encoder)
        text = source, torch.tensor([source.shape[1]]), _within(ids, model.config.decoder)
    before = model(*text)
    round_as(model, narrow)
    largest, moved = before.abs().max(), (model(*text) - before).abs().max()
    if not moved <= TOLERANCES[precision] * largest:  # both are 0 if the head is
        raise NumericalError(
            f"weights in {precision} move a logit by {float(moved / largest):.1e} of the largest "
            f"one (allowed: {TOLERANCES[precision]:.1e}): some are too small or too large for it; "
            f"export in {WIDER[precision]}"
        )


def _within(ids: Tensor, config: GPTConfig) -> Tensor:
    """Return ids [1, N] as ids that a stack of layers knows, and as many as it can read."""
    return ids[:, : config.block_size] % config.vocab_size


def _texts(source: Checkpoint) -> list[tuple[Tensor, ...]]:
    """Return held-out texts, as the plain path of the model takes them."""
    if isinstance(source.config, GPTConfig):
        windows = held_out_windows(source)[:PROBED_WINDOWS, :-1]
        return [(window[None],) for window in windows]
    return [
        (torch.tensor([one]), torch.tensor([len(one)]), torch.tensor([other]))
        for one, other in held_out_pairs(source)[:PROBED_PAIRS]
    ]


HALF_PRECISION = Recipe(
    precisions=tuple(DTYPES), options=("keep_fp32", "lowerings", "target"), make=_make
)
