"""Where edgegpt keeps things of the user's: downloads in the cache, receipts in the state folder.

XDG's base directories on Linux and macOS, LOCALAPPDATA on Windows.
"""

import os
from pathlib import Path

__all__ = ["cache_folder", "state_folder"]


def cache_folder() -> Path:
    """Return the folder of what can be had again; it need not exist."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgegpt"


def state_folder() -> Path:
    """Return the folder of what should be kept; it need not exist."""
    return _base("XDG_STATE_HOME", ".local/state") / "edgegpt"


def _base(variable: str, below_home: str) -> Path:
    value = os.environ.get(variable) or os.environ.get("LOCALAPPDATA")
    return Path(value) if value else Path.home() / below_home
