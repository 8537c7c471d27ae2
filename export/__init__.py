"""From a PyTorch model to a proved ONNX bundle."""

from .bundle import export_bundle
from .quantization import QuantizationSettings

__all__ = ["QuantizationSettings", "export_bundle"]
