"""Models on the Hugging Face Hub: the files that import reads, into huggingface_hub's own cache.

A model is named `owner/model`, one file of it `owner/model/file.gguf`. Cache, token and server are
those of the library (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, ...). Files of code are never
asked for. If the Hub cannot be asked, what the cache holds is used, and a warning says so.
"""

import errno
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgegpt.runtime.progress import Progress, silent

from ..errors import CheckpointError, EdgeGPTWarning
from .tensors import WEIGHT_FILES, shard_names

__all__ = ["download", "explained", "is_hub_id", "name_of", "repository_of"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
HUB_ID = re.compile(rf"({NAME}/{NAME})(?:/((?:{NAME}/)*{NAME}\.gguf))?")
SETTINGS = ("config.json", "generation_config.json", "LICENSE*", "LICENCE*", "COPYING*", "README.md")
TEXTS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
NAMED = 12  # GGUF files that a message lists at most
COMMIT = 7  # characters of a commit's hash in a name, as git shortens it


@dataclass(frozen=True)
class _Listing:
    """The files of a model on the Hub, with their sizes in bytes; 0: not known."""

    commit: str
    sizes: dict[str, int]


def is_hub_id(text: str) -> bool:
    """Return whether `text` has the shape of a Hub id and is no local path."""
    return HUB_ID.fullmatch(text) is not None and not os.path.lexists(text)


def download(
    hub_id: str, revision: str | None, *, weights: bool = True, progress: Progress = silent
) -> Path:
    """Download what import reads of a model; return its folder in the cache, or the GGUF file.

    Args:
        hub_id: `owner/model`, or `owner/model/file.gguf`.
        revision: a branch, a tag or a commit; None: the default branch.
        weights: whether to download weights and tokenizer, too, or only settings, the index of
            the weights, and papers.
        progress: told how many bytes are there.

    Raises:
        CheckpointError: if huggingface_hub is not installed, or says why there are no files.
    """
    repository, file = _parts(hub_id)
    try:
        with explained(hub_id, revision):
            listing = _listed(repository, revision)
    except CheckpointError as error:
        return _cached(repository, file, revision, weights, error)
    if file is not None:
        names = [file]
    else:
        _check_kind(repository, listing)
        patterns = SETTINGS + (TEXTS if weights else ())
        names = [n for n in listing.sizes if any(fnmatchcase(n, p) for p in patterns)]
    with explained(hub_id, revision), _quiet():
        # This one by the revision's name, so that the cache knows the name when it is offline.
        first = _fetch(repository, names[:1], revision, listing, progress)
        commit = _snapshot(first, names[0]).name
        _fetch(repository, names[1:], commit, listing, progress)
        if file is None:
            _fetch_weights(repository, commit, listing, weights, progress)
    return first if file is not None else _snapshot(first, names[0])


def name_of(hub_id: str, path: Path) -> str:
    """Return the id with the commit of what `download` returned, as `owner/model@abcdef1`."""
    file = _parts(hub_id)[1]
    commit = (path if file is None else _snapshot(path, file)).name
    return f"{hub_id}@{commit[:COMMIT]}"


def repository_of(hub_id: str) -> str:
    """Return the repository of a Hub id: `owner/model`."""
    return _parts(hub_id)[0]


def _parts(hub_id: str) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise CheckpointError(
            f"{hub_id!r:.200} is no Hub id: write owner/model, or owner/model/file.gguf"
        )
    return match[1], match[2]


def _snapshot(path: Path, name: str) -> Path:
    """Return the folder of the commit in which `path` is the file `name`."""
    return path.parents[name.count("/")]


def _listed(repository: str, revision: str | None) -> _Listing:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files = info.siblings or []
    return _Listing(str(info.sha), {file.rfilename: file.size or 0 for file in files})


def _check_kind(repository: str, listing: _Listing) -> None:
    """Refuse a repository without settings or weights before anything is downloaded."""
    names = set(listing.sizes)
    known = {name for pair in WEIGHT_FILES for name in pair}
    gguf = sorted(name for name in names if HUB_ID.fullmatch(f"{repository}/{name}"))
    if gguf and not names & known:
        more = f" and {len(gguf) - NAMED} more" if len(gguf) > NAMED else ""
        raise CheckpointError(
            f"{repository} holds GGUF files; name one of them, as {repository}/{gguf[0]}: "
            f"{', '.join(gguf[:NAMED])}{more}"
        )
    if "config.json" not in names or not names & known:
        lacking = "config.json" if "config.json" not in names else "weights that import reads"
        raise CheckpointError(
            f"{repository} on the Hub has no {lacking}; import needs config.json and "
            f"model.safetensors or pytorch_model.bin, whole or in parts with an index"
        )


def _fetch_weights(
    repository: str, commit: str, listing: _Listing, weights: bool, progress: Progress
) -> None:
    """Download the weights that import prefers, and their index; or the index only."""
    for single, index in WEIGHT_FILES:
        if index in listing.sizes:
            path = _fetch(repository, [index], commit, listing, progress)
            names = shard_names(path)
        elif single in listing.sizes:
            names = [single]
        else:
            continue
        if weights:
            _fetch(repository, names, commit, listing, progress)
        return


def _fetch(
    repository: str, names: list[str], revision: str | None, listing: _Listing, progress: Progress
) -> Path:
    """Download the files that the cache lacks; return the path of the last one."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    missing = [
        name
        for name in names
        if not isinstance(try_to_load_from_cache(repository, name, revision=listing.commit), str)
    ]
    total = sum(listing.sizes.get(name, 0) for name in missing)
    _check_space(repository, total)
    bar, path = _reporter(progress, f"downloading {repository}", total), Path()
    for name in names:
        path = Path(hf_hub_download(repository, name, revision=revision, tqdm_class=bar))
    return path


def _check_space(repository: str, needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE).absolute()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CheckpointError(
            f"{repository} takes {needed / 1e9:.2f} GB more, and {cache} has {free / 1e9:.2f} GB "
            f"left; make room, or set HF_HOME to a larger disk"
        )


def _reporter(progress: Progress, what: str, total: int) -> Any:
    """Return a class of progress bars, all for one sum, that draw nothing and tell `progress`."""
    from huggingface_hub.utils import tqdm

    done = 0

    class Reporter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done += int(n or 0)
            progress(what, min(done, total), total)

    return Reporter


def _cached(
    repository: str, file: str | None, revision: str | None, weights: bool, error: CheckpointError
) -> Path:
    """Return what the cache has of a model that the Hub does not give; or raise `error`."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = file or "config.json"
    try:
        with _quiet():
            found = snapshot_download(
                repository, revision=revision, local_files_only=True, allow_patterns=[wanted]
            )
    except (LocalEntryNotFoundError, ValueError):
        raise error from error.__cause__
    folder = Path(found)
    any_weights = any((folder / name).exists() for pair in WEIGHT_FILES for name in pair)
    if not (folder / wanted).exists() or (weights and file is None and not any_weights):
        raise CheckpointError(f"{error}; the cache has only a part of it, in {folder}")
    if not constants.HF_HUB_OFFLINE:
        warnings.warn(f"{error}; going on with the copy in {folder}", EdgeGPTWarning, stacklevel=3)
    return folder if file is None else folder / file


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's log and its warnings about what the errors say from being printed."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def explained(hub_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises within the block into one sentence about the model."""
    try:
        import huggingface_hub  # noqa: F401 - the message belongs to this import only
    except ImportError as error:
        raise CheckpointError(
            f"{hub_id} is no local path, and downloading it from the Hub needs huggingface_hub: "
            f'pip install "edgegpt-toolkit[hub]"'
        ) from error
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP client, of Xet, of the disk
        raise CheckpointError(_sentence(error, hub_id, revision)) from error


def _sentence(error: BaseException, hub_id: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _sentence(cause, hub_id, revision)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repository_of(hub_id)}"
        return f"{hub_id} is gated: accept its terms at {page}, then {log_in}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{hub_id} is no local path, and the Hub shows no such model: check the name; if it is "
            f"private, {log_in}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r:.80} on the Hub: check the branch, tag or commit"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, OSError):
        return f"{hub_id} is not on the Hub: check the name of the file"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{hub_id} is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub for it"
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error.response.status_code, hub_id, log_in)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left for {hub_id} in {constants.HF_HUB_CACHE}: make room, or set HF_HOME"
    first = (str(error).splitlines() or [""])[0]
    return f"cannot get {hub_id} from {constants.ENDPOINT}: {first or type(error).__name__}"


def _answer(status: int, hub_id: str, log_in: str) -> str:
    if status == 404:
        return f"{hub_id} is not on the Hub: check the name"
    if status in (401, 403):
        return f"the Hub refuses {hub_id} ({status}): {log_in}"
    return f"the Hub answered {status} when asked for {hub_id}: try again later"
