"""The public module of the errors; they are defined in the runtime, which has no PyTorch."""

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
