"""What every inference engine offers: weights that can be shared, and states that cannot.

An `Engine` holds one graph and its weights and may be used from several threads. A `State` is one
generation: its cache and its buffers, used by one thread at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Graph
from ..errors import InvalidInputError
from .candidates import Candidates

__all__ = ["PREFILL_CHUNK", "Engine", "EngineInfo", "State"]

# Tokens of a row that are fed at once: attention scores need chunk * context floats per head.
PREFILL_CHUNK = 512

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class EngineInfo:
    """What a receipt records: which software ran the graph, and on which device.

    `device` tells apart whatever computes differently: an engine that may round float32 products to
    TF32 (`tf32`) has a device of another name than one that may not.
    """

    name: str
    version: str
    device: str
    threads: int
    tf32: bool = False


class State(ABC):
    """One generation: a cache of `context` slots for each of `batch` rows.

    Attributes:
        batch: number of rows.
        context: number of cache slots in a row.
        next_ids: int64 [B, 1], what `decode` feeds; the caller writes into it.
        past_len: int64 [B], where `decode` puts it; the caller writes into it.
    """

    next_ids: Ids
    past_len: Ids

    def __init__(self, batch: int, context: int) -> None:
        self.batch, self.context = batch, context

    def step(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        """Run the model on new tokens; the results are fetched with `logits`.

        Args:
            ids: int64 [B, T], new tokens; shorter rows are padded on the right with any id.
            past_len: int64 [B], how many slots of each row are filled: the new tokens take the
                slots from there on.
            logit_positions: int64 [B, P], which of the T new tokens logits are wanted for.

        Raises:
            InvalidInputError: if new tokens would not fit the cache. Not every engine would
                notice: some write past the end.
        """
        batch, length = ids.shape
        if batch != self.batch or past_len.shape != (batch,) or len(logit_positions) != batch:
            raise InvalidInputError(f"the step has {batch} rows, the state {self.batch}")
        if int(past_len.min()) < 0 or not (logit_positions >= 0).all():
            raise InvalidInputError("past_len and logit_positions must not be negative")
        if int(logit_positions.max()) >= length:
            raise InvalidInputError(f"logit_positions must be below the {length} new tokens")
        if int(past_len.max()) + length > self.context:
            raise InvalidInputError(
                f"{length} new tokens after {int(past_len.max())} do not fit the cache of "
                f"{self.context} tokens"
            )
        self._run(ids, past_len, logit_positions)

    def decode(self) -> None:
        """Run the model on `next_ids` at `past_len`: as `step` with one token a row, but lighter.

        Raises:
            InvalidInputError: if the cache is full.
        """
        longest = max(self.past_len.tolist())
        if longest >= self.context:
            raise InvalidInputError(f"the cache of {self.context} tokens is full")
        self._decode(longest)

    @abstractmethod
    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""

    def topk(self, count: int) -> list[list[Candidates]] | None:
        """Return the `count` best logits of each row and position of the last step, [B][P].

        None where that would be no cheaper than `logits`: on engines whose logits lie in the
        host's memory, and for vocabularies not much larger than `count`.
        """
        return None

    def close(self) -> None:  # noqa: B027 - most states have nothing to give back
        """Give back what the state holds. It must not be used then; dropping it does as well."""

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the buffers may hold anything: they are dropped, not given back.
        if kind is None or kind is GeneratorExit:
            self.close()

    @abstractmethod
    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids) -> None:
        """Run checked inputs."""

    @abstractmethod
    def _decode(self, longest: int) -> None:
        """Run `next_ids` at `past_len`, whose largest number is `longest`."""


class Engine(ABC):
    """A loaded graph. `close` frees it; states made from it must no longer be used then."""

    graph: Graph

    @property
    @abstractmethod
    def info(self) -> EngineInfo:
        """Name, version and device."""

    @abstractmethod
    def new_state(self, batch: int, context: int) -> State:
        """Return an empty cache for `batch` rows of up to `context` tokens."""

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds."""
