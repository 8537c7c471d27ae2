"""The user's folders: downloads go to the cache folder, receipts to the state folder.

They follow XDG's base directories on Linux and macOS, and LOCALAPPDATA on Windows. A user without a
home, as in some containers, gets a folder that cannot exist: nothing is found in it, and writing to
it fails as on a read-only disk.
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
    if value:
        return Path(value)
    try:
        return Path.home() / below_home
    except RuntimeError:  # neither HOME nor an entry among the system's users
        return Path(os.devnull) / below_home
