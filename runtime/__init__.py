"""The torch-free runtime: opens a bundle, generates from it, and verifies it.

Needs numpy, tokenizers, safetensors and one inference engine; never PyTorch, never onnx.
"""

from .language_model import LanguageModel, load
from .run import Result, Stream, Timings

__all__ = ["LanguageModel", "Result", "Stream", "Timings", "load"]
