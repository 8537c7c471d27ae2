"""The public name of the errors, which live in the layer that has no PyTorch."""

from edgegpt.runtime.errors import (
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

__all__ = [
    "BundleError",
    "CheckpointError",
    "DataError",
    "EdgeGPTError",
    "EdgeGPTWarning",
    "EngineError",
    "ExportError",
    "InvalidInputError",
    "NumericalError",
    "VerificationError",
]
