"""The unchanged model: one graph of each lowering over the same weights."""

from edgegpt.checkpoint import Checkpoint
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.vocabulary import Precision

from ..lowerings import LOWERINGS
from ..settings import ExportSettings
from .base import Content, Progress, Recipe
from .parts import decoders, golden_vectors, lowerings_for

__all__ = ["FLOAT32"]


def _make(
    source: Checkpoint, _: Precision, settings: ExportSettings, progress: Progress
) -> Content:
    lowerings_for(source.config, LOWERINGS, settings)  # refused before the work
    golden = golden_vectors(source, source.model, progress)
    source.release()
    return Content(golden, decoders(skeleton(source.config), source.weights, settings, progress))


FLOAT32 = Recipe(precisions=("float32",), options=("lowerings", "target"), make=_make)
