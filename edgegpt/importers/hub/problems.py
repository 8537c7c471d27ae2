"""What goes wrong with the Hub, as one sentence about the model."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors

from ...errors import CheckpointError
from .ids import HubId

__all__ = ["explained"]

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def explained(hub_id: HubId, revision: str | None) -> Iterator[None]:
    """Turn whatever the library raises within the block into a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # of the library, of its HTTP client, of Xet, of the disk
        raise CheckpointError(_sentence(error, hub_id, revision)) from error


def _sentence(error: BaseException, hub_id: HubId, revision: str | None) -> str:
    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _sentence(cause, hub_id, revision)
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{hub_id.repository}"
        return f"{hub_id} is gated: accept its terms at {page}, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{hub_id} is no local path, and the Hub shows no such model: check the name; if it is "
            f"private, {LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r:.80} on the Hub"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{hub_id} is no local path, it is not in the cache, and HF_HUB_OFFLINE forbids to "
            f"ask the Hub for it"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error.response.status_code, hub_id)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space is left for {hub_id} in {constants.HF_HUB_CACHE}: make room, or set HF_HOME"
        )
    first = (str(error).splitlines() or [""])[0]
    return (
        f"cannot get {hub_id}, which is no local path, from {constants.ENDPOINT}: "
        f"{first or type(error).__name__}"
    )


def _answer(status: int, hub_id: HubId) -> str:
    if status in (401, 403):
        return f"the Hub refuses {hub_id} ({status}), which is no local path: {LOG_IN}"
    return (
        f"the Hub answered {status} when asked for {hub_id}, which is no local path: try again "
        f"later"
    )
