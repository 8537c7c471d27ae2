"""The type of a lowering."""

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
        name: the name in the manifest.
        opset: the opset of ONNX's own operators.
        ir_version: the ONNX IR version of the file.
        translations: the `custom_translation_table` of `torch.onnx.export`. It maps an operator of
            PyTorch to the function that emits its ONNX operators.
        passes: edits of the simplified graph of a decoder, in order.
        encoder_passes: those of the graph of an encoder.
        half_passes: more edits of graphs that compute in half precision, which GPUs run.
        obstacle: returns why a model of this shape cannot be lowered, or None if it can.
    """

    name: vocabulary.Lowering
    opset: int
    ir_version: int
    translations: Mapping[Any, Callable[..., Any]]
    passes: tuple[type[ir.passes.InPlacePass], ...] = ()
    encoder_passes: tuple[type[ir.passes.InPlacePass], ...] = ()
    half_passes: tuple[type[ir.passes.InPlacePass], ...] = ()
    obstacle: Callable[[GPTConfig], str | None] = lambda _: None
