"""The lowering of quantised bundles for TensorRT: `standard`, over weights of DequantizeLinear."""

from edgegpt.runtime.bundle.vocabulary import QUANTISED

from .standard import IR_VERSION, OPSET, PASSES, translations

__all__ = ["IR_VERSION", "NAME", "OPSET", "PASSES", "translations"]

NAME = QUANTISED
