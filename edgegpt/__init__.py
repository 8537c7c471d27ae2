"""Train it, export it, prove it, run it: GPT-class transformers on edge devices.

`import edgegpt` loads neither PyTorch nor an engine, not even numpy. `edgegpt.load` opens a bundle
for generation. What edgegpt raises on purpose is an `EdgeGPTError` of one of the kinds below.
"""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from . import errors
except ModuleNotFoundError as missing:
    if missing.name != "edgegpt.runtime":
        raise
    raise ImportError(
        f"{__path__[0]} is edgegpt's source without its symbolic links (runtime, export, models): "
        f"clone it with `git clone -c core.symlinks=true`, or start Python in another folder to "
        f"use an installed edgegpt"
    ) from None

from .errors import (
    BundleError,
    CheckpointError,
    DataError,
    EdgeGPTError,
    EdgeGPTWarning,
    EngineError,
    ExportError,
    InvalidInputError,
    NumericalError,
    VerificationError,
)

if TYPE_CHECKING:
    from edgegpt.runtime.generation.logprobs import TokenLogprob
    from edgegpt.runtime.generation.run import Stream
    from edgegpt.runtime.generation.writing import Result, Timings
    from edgegpt.runtime.language_model import LanguageModel
    from edgegpt.runtime.loading import load

__all__ = [
    "BundleError",
    "CheckpointError",
    "DataError",
    "EdgeGPTError",
    "EdgeGPTWarning",
    "EngineError",
    "ExportError",
    "InvalidInputError",
    "LanguageModel",
    "NumericalError",
    "Result",
    "Stream",
    "Timings",
    "TokenLogprob",
    "VerificationError",
    "__version__",
    "errors",
    "load",
]

__version__ = "0.3.0"

_HOME = {
    "LanguageModel": "edgegpt.runtime.language_model",
    "load": "edgegpt.runtime.loading",
    "Result": "edgegpt.runtime.generation.writing",
    "Stream": "edgegpt.runtime.generation.run",
    "Timings": "edgegpt.runtime.generation.writing",
    "TokenLogprob": "edgegpt.runtime.generation.logprobs",
}

if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        raise AttributeError(f"module 'edgegpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
