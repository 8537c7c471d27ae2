"""Edits of an ONNX graph: one class a file, an `onnx_ir` pass that says if it changed anything."""

from .fold_weight_transposes import FoldWeightTransposes
from .share_dimensions import ShareDimensions

__all__ = ["FoldWeightTransposes", "ShareDimensions"]
