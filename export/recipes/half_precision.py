"""A model that computes in float16 or bfloat16, proved against the one in float32.

Parts that would overflow in float16 on held-out text stay in float32.
"""

import torch
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import InvalidInputError
from edgegpt.model import GPTConfig
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.vocabulary import Precision

from ..half_precision import DTYPES, in_half_precision, matching_layers
from ..lowerings import LOWERINGS
from ..pair_texts import held_out_pairs
from ..range_probe import too_large
from ..settings import AUTO, ExportSettings
from .base import Content, Progress, Recipe
from .parts import decoders, golden_vectors, held_out_windows, lowerings_for

__all__ = ["HALF_PRECISION"]

PROBED_WINDOWS, PROBED_PAIRS = 32, 256  # of held-out text, for the largest values


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
    golden = golden_vectors(source, source.model, progress)
    source.release()
    narrow = in_half_precision(skeleton(source.config), precision, kept)
    graphs = decoders(narrow, source.weights, settings, progress)
    return Content(golden, graphs, kept=tuple(sorted(kept)))


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
