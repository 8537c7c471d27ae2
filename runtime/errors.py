"""Every error and warning that edgegpt raises on purpose.

The library raises these; only the command line turns them into exit codes. Each message tells
what is wrong, where, and what to do about it.
"""

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


class EdgeGPTError(Exception):
    """Base of all errors that edgegpt raises on purpose."""


class InvalidInputError(EdgeGPTError, ValueError):
    """A caller passed something that cannot be used: a setting, a prompt, a shape."""


class BundleError(EdgeGPTError):
    """A bundle is missing, damaged, unsafe, or of an unknown format version."""


class CheckpointError(EdgeGPTError):
    """A checkpoint is missing, damaged, or does not have the expected layout."""


class DataError(EdgeGPTError):
    """A training corpus cannot be found, downloaded, or used."""


class EngineError(EdgeGPTError):
    """An inference engine is not installed, does not load, or failed while running."""


class ExportError(EdgeGPTError):
    """A model cannot be turned into a bundle."""


class NumericalError(EdgeGPTError):
    """A model produced logits that are not numbers."""


class VerificationError(EdgeGPTError):
    """A bundle does not compute what its golden vectors say."""


class EdgeGPTWarning(UserWarning):
    """Something the user should know, although the work goes on."""
