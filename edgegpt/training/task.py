"""What a run trains: a model, its batches, their loss, and the files beside the weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from edgegpt.model import GPT, Seq2Seq

from ..checkpoint import Checkpoint
from .need import Load

__all__ = ["Batch", "Task"]

Batch = tuple[Any, ...]  # on the CPU; what its members are, is the task's own affair


class Task(Protocol):
    """A model and the data that it learns from."""

    @property
    def model(self) -> GPT | Seq2Seq:
        """The model, in float32."""
        ...

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of the model, as JSON has them."""
        ...

    @property
    def corpus(self) -> str:
        """The name of the data."""
        ...

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes of the data."""
        ...

    def facts(self) -> str:
        """Return how much data there is, as a line for the user."""
        ...

    def batches(self, step: int) -> list[Batch]:
        """Return this process's batches of a step, all of about one size.

        They depend on nothing else. The gradients of their mean loss make the step.
        """
        ...

    def sliver(self, batch: Batch, share: float) -> Batch:
        """Return about this share of a batch, to measure what the whole will take."""
        ...

    @property
    def loads(self) -> list[Load]:
        """What each stack of the model has to do for a batch."""
        ...

    @property
    def size_option(self) -> str:
        """The setting that tells how large a batch is."""
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
