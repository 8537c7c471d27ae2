"""Downloads the files of a model that import reads, into huggingface_hub's own cache.

Cache, token and server are those of the library (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE,
...). Files of code are never asked for. If the Hub cannot be asked, what the cache holds is used,
and a warning says so.
"""

import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from logging import CRITICAL
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import tqdm

from edgegpt.runtime.progress import Progress, silent

from ...errors import CheckpointError, EdgeGPTWarning
from ..huggingface import ADAPTER_SETTINGS
from ..tensors import WEIGHT_FILES, shard_names, weight_paths
from .ids import HubId
from .problems import explained

__all__ = ["download"]

SETTINGS = ("config.json", "generation_config.json")
PAPERS = ("LICENSE*", "LICENCE*", "COPYING*", "README.md")
TEXTS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHTS = {name for pair in WEIGHT_FILES for name in pair}
PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
NAMED = 12  # GGUF files that a message lists at most


def download(
    hub_id: HubId, revision: str | None, *, weights: bool = True, progress: Progress = silent
) -> Path:
    """Download what import reads of a model; return its folder in the cache, or the GGUF file.

    Args:
        hub_id: the model.
        revision: a branch, a tag or a commit; None: the default branch.
        weights: whether to download the weights, too, or only their index, settings, tokenizer
            and papers.
        progress: told how many bytes are there.

    Raises:
        CheckpointError: says why there are no files, or what they lack.
    """
    try:
        with explained(hub_id, revision):
            remote = _asked(hub_id, progress, revision)
    except CheckpointError as error:
        return _cached(hub_id, revision, weights, error)
    with explained(hub_id, revision), _quiet():
        if hub_id.file is not None:
            remote.fetch(_parts(hub_id.file, remote), remote.commit)
            return remote.fetch([hub_id.file], revision)
        _check_kind(remote)
        folder = remote.fetch(["config.json"], revision).parent
        small = [name for name in remote.sizes if _is_wanted(name, SETTINGS + PAPERS + TEXTS)]
        remote.fetch(small, remote.commit)
        remote.fetch(_weight_files(remote, weights), remote.commit)
    return folder


@dataclass(frozen=True)
class _Remote:
    """A model as the Hub describes it: the bytes of each file at one commit; 0: not known."""

    repository: str
    commit: str
    sizes: dict[str, int]
    progress: Progress

    def fetch(self, names: Sequence[str], revision: str | None) -> Path:
        """Download the files that the cache lacks; return the path of the last one.

        The cache keeps the name `revision`, so that it knows it when it is offline.
        """
        unknown = [name for name in names if name not in self.sizes]
        if unknown:
            raise CheckpointError(f"{self.repository} on the Hub has no {unknown[0]}")
        sizes = [self.sizes[name] for name in names if not self._has(name)]
        _check_space(self.repository, sum(sizes))
        bar = _reporter(self.progress, f"downloading {self.repository}", sum(sizes))
        path = Path()
        for name in names:
            path = Path(
                huggingface_hub.hf_hub_download(
                    self.repository, name, revision=revision, tqdm_class=bar
                )
            )
        return path

    def _has(self, name: str) -> bool:
        found = huggingface_hub.try_to_load_from_cache(self.repository, name, revision=self.commit)
        return isinstance(found, str)


def _asked(hub_id: HubId, progress: Progress, revision: str | None) -> _Remote:
    info = huggingface_hub.HfApi().model_info(
        hub_id.repository, revision=revision, files_metadata=True
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    return _Remote(hub_id.repository, str(info.sha), sizes, progress)


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a file is in the top folder, matches a pattern, and is no code."""
    matches = any(fnmatchcase(name, pattern) for pattern in patterns)
    return matches and "/" not in name and not name.endswith(".py")


def _check_kind(remote: _Remote) -> None:
    """Refuse a repository without settings or weights before anything is downloaded."""
    names, repository = remote.sizes.keys(), remote.repository
    gguf = sorted(name for name in names if name.endswith(".gguf") and name.isprintable())
    if gguf and not names & WEIGHTS:
        more = f" and {len(gguf) - NAMED} more" if len(gguf) > NAMED else ""
        raise CheckpointError(
            f"{repository} holds GGUF files; name one of them, as {repository}/{gguf[0]}: "
            f"{', '.join(gguf[:NAMED])}{more}"
        )
    if "config.json" not in names and ADAPTER_SETTINGS in names:
        raise CheckpointError(
            f"{repository} is an adapter: download it, and name the model that it is for, with "
            f"--adapter FOLDER"
        )
    if "config.json" not in names or not names & WEIGHTS:
        lacking = "weights that import reads" if "config.json" in names else "config.json"
        raise CheckpointError(
            f"{repository} on the Hub has no {lacking}; import needs config.json and "
            f"model.safetensors or pytorch_model.bin, whole or in parts with an index"
        )


def _parts(file: str, remote: _Remote) -> list[str]:
    """Return the other parts of a split GGUF file, which are found beside it."""
    match = PART.fullmatch(file)
    if match is None:
        return []
    own = re.compile(rf"{re.escape(match[1])}-\d{{5}}-of-{match[2]}\.gguf")
    return [name for name in remote.sizes if own.fullmatch(name)]


def _weight_files(remote: _Remote, weights: bool) -> list[str]:
    """Return the files of the weights that import prefers; without `weights`, only their index."""
    for single, index in WEIGHT_FILES:
        if single in remote.sizes:
            names = [single]
        elif index in remote.sizes:
            names = shard_names(remote.fetch([index], remote.commit))
        else:
            continue
        return names if weights else []
    return []


def _check_space(repository: str, needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE).absolute()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CheckpointError(
            f"{repository} takes {needed / 1e9:.2f} GB more, and {cache} has {free / 1e9:.2f} GB "
            f"left; make room, or set HF_HOME to a larger disk"
        )


def _reporter(progress: Progress, what: str, total: int) -> Any:
    """Return a class of progress bars, all for one sum, that draw nothing and tell `progress`."""
    done = 0

    class Reporter(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            settings["disable"] = True
            super().__init__(*args, **settings)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done += int(n or 0)
            progress(what, min(done, total), total)

    return Reporter


def _cached(hub_id: HubId, revision: str | None, weights: bool, error: CheckpointError) -> Path:
    """Return what the cache has of a model that the Hub does not give; or raise `error`."""
    wanted = hub_id.file or "config.json"
    try:
        with _quiet():
            folder = Path(
                huggingface_hub.snapshot_download(
                    hub_id.repository,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=[wanted],
                )
            )
    except (LocalEntryNotFoundError, ValueError):  # the name itself may be refused
        raise error from error.__cause__
    if not (folder / wanted).exists():
        raise error
    try:
        if weights and hub_id.file is None:
            weight_paths(folder)
    except CheckpointError as lacking:
        raise CheckpointError(f"{error}; the cache holds a part of it only: {lacking}") from lacking
    if not constants.HF_HUB_OFFLINE:
        warnings.warn(f"{error}; going on with the copy in {folder}", EdgeGPTWarning, stacklevel=2)
    return folder if hub_id.file is None else folder / hub_id.file


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from printing what the errors say."""
    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
