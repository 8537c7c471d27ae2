"""From a PyTorch checkpoint to an ONNX bundle, lowered for a target, with its proof."""

from .bundle import export_bundle

__all__ = ["export_bundle"]
