"""From a PyTorch model to a proved ONNX bundle."""

from .bundle import export_bundle
from .settings import ExportSettings

__all__ = ["ExportSettings", "export_bundle"]
