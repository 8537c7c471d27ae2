"""The lowering of quantised bundles for TensorRT: `standard` with DequantizeLinear weights."""

from dataclasses import replace

from edgegpt.runtime.bundle.vocabulary import QUANTISED

from .standard import STANDARD

__all__ = ["STANDARD_QDQ"]

STANDARD_QDQ = replace(STANDARD, name=QUANTISED)
