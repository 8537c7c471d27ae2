"""What a lowering is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgegpt.model import GPTConfig
from edgegpt.runtime.bundle import vocabulary

__all__ = ["Lowering"]


@dataclass(frozen=True)
class Lowering:
    """How the model's operators become ONNX operators for one family of targets.

    Attributes:
        name: as in the manifest.
        opset: of ONNX's own operators.
        ir_version: of the file.
        translations: what `torch.onnx.export` takes as `custom_translation_table`: for an operator
            of PyTorch the function that emits it.
        passes: edits of the simplified graph, in order.
        obstacle: returns why a model of this shape cannot be lowered, or None if it can.
    """

    name: vocabulary.Lowering
    opset: int
    ir_version: int
    translations: Mapping[Any, Callable[..., Any]]
    passes: tuple[type[ir.passes.InPlacePass], ...] = ()
    obstacle: Callable[[GPTConfig], str | None] = lambda _: None
