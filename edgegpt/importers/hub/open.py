"""Opens a model on the Hub for an import: downloaded first, then opened as any other source."""

from dataclasses import replace

from edgegpt.runtime.progress import Progress, silent

from ..open import open_source
from ..source import Source
from .download import download
from .ids import HubId

__all__ = ["open_hub"]


def open_hub(hub_id: HubId, revision: str | None, progress: Progress = silent) -> Source:
    """Return the checkpoint of a model on the Hub; its name has the commit.

    Raises:
        CheckpointError: as `download` and `open_source`.
    """
    path = download(hub_id, revision, progress=progress)
    return replace(open_source(path), name=hub_id.with_commit(path))
