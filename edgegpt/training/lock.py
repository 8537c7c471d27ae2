"""One run at a time writes to a checkpoint folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError

__all__ = ["LOCK_FILE", "is_unsaved", "only_run"]

LOCK_FILE = "lock"
# What a run writes before its first save.
EARLY = {
    "config.json",
    "held_out.tsv",
    "held_out.txt",
    "metrics.jsonl",
    "source_tokenizer.json",
    "tokenizer.json",
    "train",
    LOCK_FILE,
    "settings.json",
}


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Keep other runs out of the checkpoint folder `out`, as long as the context lasts.

    A process that ends, however it does, lets go of it.

    Raises:
        CheckpointError: if another run is writing there, or the folder cannot be written to.
    """
    lock = FileLock(out / "train" / LOCK_FILE)
    try:
        (out / "train").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(f"another run is writing to {out}; choose another --out") from None
    except OSError as error:
        raise CheckpointError(f"cannot write to {out}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_unsaved(out: Path) -> bool:
    """Return whether `out` has no more than what a run leaves that ended before its first save."""
    names = {path.name for path in out.rglob("*")}
    return LOCK_FILE in names and names <= EARLY
