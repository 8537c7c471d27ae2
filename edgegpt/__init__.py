"""Train it, export it, prove it, run it: GPT-class transformers on edge devices.

`import edgegpt` loads neither PyTorch nor an engine; `edgegpt.load` opens a bundle for generation.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgegpt.runtime import LanguageModel, load

__all__ = ["LanguageModel", "__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("LanguageModel", "load"):
        from edgegpt import runtime  # noqa: PLC0415 - keeps `import edgegpt` instant

        return getattr(runtime, name)
    raise AttributeError(f"module 'edgegpt' has no attribute {name!r}")
