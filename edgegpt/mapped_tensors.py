"""Open a safetensors file, whose tensors stay in the file until they are read."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError

__all__ = ["open_tensors"]


def open_tensors(path: Path) -> Any:
    """Return safetensors' handle of a file that is mapped into memory, with PyTorch's tensors.

    Raises:
        CheckpointError: if the file is damaged, or cannot be read or mapped.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except OSError as error:  # some network and FUSE file systems map no files
        raise CheckpointError(
            f"{path} cannot be mapped into memory: {error}; if its file system cannot do that, "
            f"copy it to another one"
        ) from error
