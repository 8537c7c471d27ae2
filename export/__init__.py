"""From a PyTorch model to a proved ONNX bundle."""

from .bundle import export_bundle
from .half_precision import HalfPrecision
from .quantization import QuantizationSettings

__all__ = ["HalfPrecision", "QuantizationSettings", "export_bundle"]
