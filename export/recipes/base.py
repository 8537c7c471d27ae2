"""The type of a recipe, and of its result."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from edgegpt.checkpoint import Checkpoint
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.manifest import Graph, Quantization
from edgegpt.runtime.bundle.vocabulary import Precision
from edgegpt.runtime.progress import Progress

from ..settings import ExportSettings

__all__ = ["Content", "Progress", "Recipe"]


@dataclass(frozen=True)
class Content:
    """The content of a bundle that does not follow from the checkpoint alone.

    `graphs` starts with the graphs that generate. `kept` names the parts of a float16 or bfloat16
    model, or of a graph "half", that compute in float32.
    """

    golden: Golden
    graphs: list[tuple[Graph, ir.Model]]
    quantization: Quantization | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A way to turn a checkpoint into the content of a bundle.

    Attributes:
        precisions: the precisions that it serves, named as in the manifest.
        options: the names of the `ExportSettings` that it uses.
        make: returns the content of a bundle in one of the precisions.
    """

    precisions: tuple[Precision, ...]
    options: tuple[str, ...]
    make: Callable[[Checkpoint, Precision, ExportSettings, Progress], Content]
