"""What a run trains: a model, its batches, their loss, and the files beside the weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from edgegpt.model import GPT, Seq2Seq

from ..checkpoint import Checkpoint

__all__ = ["Batch", "Task"]

Batch = tuple[Tensor, ...]  # on the CPU; what they are, is the task's own affair


class Task(Protocol):
    """A model and the data that it learns from.

    Attributes:
        model: the model, in float32.
        model_settings: its settings, as JSON has them.
        corpus: the name of the data.
        sha256: of the bytes of the data.
    """

    model: GPT | Seq2Seq
    model_settings: dict[str, Any]
    corpus: str
    sha256: str

    def facts(self) -> str:
        """Return how much data there is, as a line for the user."""
        ...

    def batch(self, step: int) -> Batch:
        """Return this process's part of the batch of a step; it depends on nothing else."""
        ...

    def validation(self) -> Iterator[Batch]:
        """Yield the batches on which all processes together measure the loss."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss in nats over the tokens that are predicted."""
        ...

    def predicted(self, batch: Batch) -> int:
        """Return how many tokens are predicted."""
        ...

    def scores(self) -> dict[str, float]:
        """Return further measures of the validation data, by name."""
        ...

    def sample(self) -> str:
        """Return what the model writes now; empty if the settings want no sample."""
        ...

    def write_files(self, out: Path) -> None:
        """Write what a checkpoint has beside the weights."""
        ...

    def take_weights(self, origin: Checkpoint, folder: Path) -> None:
        """Start from the weights of the checkpoint `origin`, which was read from `folder`."""
        ...
