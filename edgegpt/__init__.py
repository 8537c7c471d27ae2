"""Train it, export it, prove it, run it: GPT-class transformers on edge devices.

`import edgegpt` loads neither PyTorch nor an engine, not even numpy. `edgegpt.load` opens a bundle
for generation; its exceptions are in `edgegpt.errors`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from edgegpt.runtime.generation.run import Result, Stream, Timings
    from edgegpt.runtime.language_model import LanguageModel
    from edgegpt.runtime.loading import load

__all__ = ["LanguageModel", "Result", "Stream", "Timings", "__version__", "errors", "load"]

__version__ = "0.1.0"

_HOME = {
    "LanguageModel": "edgegpt.runtime.language_model",
    "load": "edgegpt.runtime.loading",
    "Result": "edgegpt.runtime.generation.run",
    "Stream": "edgegpt.runtime.generation.run",
    "Timings": "edgegpt.runtime.generation.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgegpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
