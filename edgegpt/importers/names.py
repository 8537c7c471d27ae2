"""Names that a source gives to tensors, files and settings: messages repeat them."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError

__all__ = ["check_name", "listed"]

LONGEST = 200  # characters of a name; those of tensors have fewer than 100
LISTED = 5  # names that a message lists at most


def check_name(name: str, where: Path | str) -> None:
    """Refuse a name of a tensor or of a file that no model has, and that would spoil a message."""
    if _shown(name) != name:
        raise CheckpointError(f"{where}: {_shown(name)} is not a name")


def listed(names: Sequence[str]) -> str:
    """Return a few of the names, and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(map(_shown, names[:LISTED])) + (f" and {more:,} more" if more > 0 else "")


def _shown(name: str) -> str:
    """Return a name, in quotes and cut if it is too long or has unusual characters."""
    if name.isprintable() and len(name) <= LONGEST:
        return name
    return ascii(name[:LONGEST]) + ("..." if len(name) > LONGEST else "")
