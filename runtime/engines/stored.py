"""Where engines are kept that were built on this machine."""

from pathlib import Path

from ..user_folders import cache_folder

__all__ = ["engine_folder"]


def engine_folder(bundle_id: str) -> Path:
    """Return the folder for the engines of a bundle; it need not exist."""
    return cache_folder() / "engines" / bundle_id
