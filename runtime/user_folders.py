"""The user's folders: downloads go to the cache folder, receipts to the state folder.

They follow XDG's base directories on Linux and macOS, and LOCALAPPDATA on Windows.
"""

import os
from pathlib import Path

__all__ = ["cache_folder", "state_folder"]


def cache_folder() -> Path:
    """Return the folder for files that can be fetched again; it need not exist."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgegpt"


def state_folder() -> Path:
    """Return the folder for files that should be kept; it need not exist."""
    return _base("XDG_STATE_HOME", ".local/state") / "edgegpt"


def _base(variable: str, below_home: str) -> Path:
    value = os.environ.get(variable) or os.environ.get("LOCALAPPDATA")
    return Path(value) if value else Path.home() / below_home
