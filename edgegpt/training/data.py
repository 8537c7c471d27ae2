"""Load the training text and cut it into batches.

A corpus is a file of UTF-8 text, the well-known tiny Shakespeare, or by default the English prose
that CPython ships for its `help()`. Because of this default, training works on any machine.
"""

import contextlib
import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.runtime.files import write_file
from edgegpt.runtime.inputs import read_input
from edgegpt.runtime.text.split import TRAIN_FRACTION
from edgegpt.runtime.user_folders import cache_folder

from ..errors import DataError

__all__ = ["Corpus", "load_corpus", "random_batch", "split", "windows"]

TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Corpus:
    """A text, its name, and the SHA-256 of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def load_corpus(source: str | None) -> Corpus:
    """Return the corpus at a path, "tinyshakespeare", or, for None, CPython's prose."""
    if source is None:
        return _python_topics()
    path = Path(source)
    if source == "tinyshakespeare" and not path.exists():
        return _decode("tinyshakespeare", _download_tinyshakespeare())
    if path.is_dir():
        raise DataError(f"{path} is a folder; --data takes one file of UTF-8 text")
    try:
        return _decode(path.name, read_input(path))
    except FileNotFoundError:
        raise DataError(f"no corpus at {path}; --data takes a file, or 'tinyshakespeare'") from None
    except OSError as error:
        raise DataError(f"cannot read the corpus {path}: {error.strerror}") from error


def split(ids: Ids, block_size: int) -> tuple[Ids, Ids]:
    """Cut ids into the first 90 % for training and the rest for validation."""
    cut = int(len(ids) * TRAIN_FRACTION)
    train, validation = ids[:cut], ids[cut:]
    if len(validation) <= block_size:
        raise DataError(
            f"the corpus is too short: its validation part has {len(validation)} tokens, and a "
            f"block of {block_size} needs {block_size + 1}. Use a longer text or a smaller "
            f"--block-size."
        )
    return train, validation


def random_batch(
    ids: Ids, block_size: int, rows: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, int64 [rows, block_size] each, of training step `step`.

    The choice depends only on the arguments, so a resumed run sees the same batches.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    starts = generator.integers(0, len(ids) - block_size, size=rows)
    chunk = ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)  # (rows, block + 1)
    return torch.from_numpy(chunk[:, :-1]), torch.from_numpy(chunk[:, 1:])


def windows(ids: Ids, block_size: int, rows: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut ids into full, non-overlapping windows and yield them, `rows` at a time.

    Every position is a target at most once; an incomplete last window is left out. If there are
    more than `limit` windows, `limit` evenly spread ones are used. Yields pairs of inputs and
    targets, int64 [<= rows, block_size] each.
    """
    count = (len(ids) - 1) // block_size
    starts = np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64) * block_size
    for first in range(0, len(starts), rows):
        chunk = ids[starts[first : first + rows, None] + np.arange(block_size + 1)].astype(np.int64)
        yield torch.from_numpy(chunk[:, :-1]), torch.from_numpy(chunk[:, 1:])


def _decode(name: str, raw: bytes) -> Corpus:
    try:
        text = raw.decode("utf-8-sig")  # Windows' editors put a mark before a text
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: byte {error.start} is wrong") from error
    if not text:
        raise DataError(f"{name} is empty")
    return Corpus(name, text, hashlib.sha256(raw).hexdigest())


def _python_topics() -> Corpus:
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte, only needed here

    text = "\n".join(topics[key] for key in sorted(topics))
    return _decode("pydoc_data.topics", text.encode("utf-8"))


def _download_tinyshakespeare() -> bytes:
    cache = cache_folder()
    path = cache / "tinyshakespeare.txt"
    if path.exists():
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() == TINYSHAKESPEARE_SHA256:
            return raw
    try:
        with urllib.request.urlopen(TINYSHAKESPEARE_URL, timeout=30) as response:
            raw = bytes(response.read())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"cannot download tinyshakespeare from {TINYSHAKESPEARE_URL} ({reason}). "
            f"Fetch that file on a machine with a network and pass it with --data FILE."
        ) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != TINYSHAKESPEARE_SHA256:
        raise DataError(
            f"what {TINYSHAKESPEARE_URL} sent is not tinyshakespeare: its sha256 is {found}, "
            f"expected {TINYSHAKESPEARE_SHA256}"
        )
    with contextlib.suppress(OSError):  # without a cache, the next run downloads again
        cache.mkdir(parents=True, exist_ok=True)
        write_file(path, raw)
    return raw
