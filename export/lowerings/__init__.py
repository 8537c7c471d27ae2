"""Lowerings: how the model's operators become ONNX operators, one file per family of targets."""

from .base import Lowering
from .legacy import LEGACY
from .ort import ORT
from .standard import STANDARD
from .standard_qdq import STANDARD_QDQ

__all__ = ["LEGACY", "LOWERINGS", "ORT", "STANDARD", "STANDARD_QDQ", "Lowering"]

# Of a bundle whose weights are not quantised, the preferred ones first.
LOWERINGS = (ORT, STANDARD, LEGACY)
