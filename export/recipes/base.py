"""What a recipe is, and what it makes."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgegpt.checkpoint import Checkpoint
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.manifest import Graph, Quantization
from edgegpt.runtime.bundle.vocabulary import Precision

from ..settings import ExportSettings

__all__ = ["Content", "Progress", "Recipe"]

Progress = Callable[[str], None]  # is told each stage as it begins


@dataclass(frozen=True)
class Content:
    """What a bundle holds, the graphs that generate first; the rest follows from the checkpoint.

    `kept` names the parts of a float16 or bfloat16 model that compute in float32.
    """

    golden: Golden
    graphs: list[tuple[Graph, ir.Model]]
    quantization: Quantization | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint becomes the content of a bundle.

    Attributes:
        precisions: that it serves, as in the manifest.
        options: the names of those `ExportSettings` that it has a use for.
        make: returns the content of a bundle in one of the precisions.
    """

    precisions: tuple[Precision, ...]
    options: tuple[str, ...]
    make: Callable[[Checkpoint, Precision, ExportSettings, Progress], Content]
