"""Lowerings: how the model's operators become ONNX operators, one file per family of targets."""

from .base import Lowering
from .legacy import LEGACY
from .ort import ORT
from .standard import STANDARD
from .standard_qdq import STANDARD_QDQ

__all__ = ["LEGACY", "LOWERINGS", "ORT", "STANDARD", "STANDARD_QDQ", "Lowering"]

# The lowerings in a bundle whose weights are not quantised, in order of preference.
LOWERINGS = (ORT, STANDARD, LEGACY)
