"""The interface of every inference engine: shared weights, and states that are not shared.

An `Engine` holds one graph and its weights, and may be used from several threads. A `State` holds
the cache of some rows and the buffers of their steps, and is used by one thread at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Graph
from ..errors import EngineError, InvalidInputError
from .calls import ENGINE_CALLS

__all__ = ["MANY_ROWS", "PREFILL_CHUNK", "Engine", "EngineInfo", "Sources", "State"]

# Most tokens of a row in one step, unless `State.prompt_piece` is more: attention scores may need
# chunk * context floats per head.
PREFILL_CHUNK = 512
# From so many rows on, an engine may decode with the graph that it has for long steps.
MANY_ROWS = 16

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class EngineInfo:
    """What a receipt records: which software ran the graph, and on which device.

    Engines that compute differently have different `device` names: an engine that may round float32
    products to TF32 (`tf32`), or rounds all keys and values to float16 (`half_cache`), has another
    device name than one that does not. An engine whose kernels depend on the processor of the host
    names its kind (`machine.processor_kind`) as `processor`.
    """

    name: str
    version: str
    device: str
    threads: int
    tf32: bool = False
    processor: str = ""
    half_cache: bool = False


@dataclass(frozen=True)
class Sources:
    """Sources that an engine has encoded, for any number of states of that engine.

    Attributes:
        lengths: int64 [G], the tokens of each source.
        caches: keys and values [G, H, N, D] for each layer, where the engine keeps them.
    """

    lengths: Ids
    caches: Sequence[Any]

    @property
    def count(self) -> int:
        """How many sources these are, G."""
        return len(self.lengths)


class State(ABC):
    """A cache of `context` slots for each of `rows` rows.

    Each row holds its own text. A step feeds some neighbouring rows and leaves the others as they
    are. Only the fed rows cost time, so a caller that keeps the n rows in use at 0 .. n - 1 pays
    for n. `reorder` moves, copies and drops rows.

    The decoder of an encoder-decoder attends to sources, too: to each as many neighbouring rows as
    to any other. Steps run all rows of the sources whose rows they run.

    Attributes:
        rows: number of rows, R.
        context: number of cache slots in a row, S.
        source_count: number of sources, G; None if the model takes none.
        rows_each: number of rows of each source; 1 without sources.
        next_ids: int64 [R, 1], the tokens that `decode` feeds; the caller writes into it.
        past_len: int64 [R], the slots in which `decode` puts them; the caller writes into it.
        prompt_piece: how many tokens of each row a prompt is best fed at most at once.
    """

    prompt_piece = PREFILL_CHUNK

    def __init__(self, rows: int, context: int, sources: int | None = None) -> None:
        """Note the numbers of rows, slots, and sources.

        Raises:
            InvalidInputError: if the rows are not a multiple of the sources.
        """
        if sources is not None and rows % sources:
            raise InvalidInputError(f"{rows} rows cannot share {sources} sources evenly")
        self.rows, self.context = rows, context
        self.rows_each = 1 if sources is None else rows // sources
        self.source_count = sources
        self.next_ids: Ids = np.zeros((rows, 1), dtype=np.int64)
        self.past_len: Ids = np.zeros(rows, dtype=np.int64)

    def step(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int = 0) -> None:
        """Run the model on new tokens of B rows; `logits` returns the results.

        Args:
            ids: int64 [B, T], new tokens; shorter rows are padded on the right with any id.
            past_len: int64 [B], how many slots of each row are filled; the new tokens take the
                slots that follow.
            logit_positions: int64 [B, P], the indices of the new tokens whose logits are wanted.
            first: the step runs the rows `first` .. `first` + B - 1 of the state.

        Raises:
            InvalidInputError: if there are no such rows, or new tokens would not fit the cache.
                Without this check, some engines would write past the end of the cache.
        """
        count, length = ids.shape
        if past_len.shape != (count,) or len(logit_positions) != count:
            raise InvalidInputError(
                f"a step of {count} rows has {len(past_len)} lengths and {len(logit_positions)} "
                f"rows of logit_positions"
            )
        self._check_rows(first, count)
        if int(past_len.min()) < 0 or not (logit_positions >= 0).all():
            raise InvalidInputError("past_len and logit_positions must not be negative")
        if int(logit_positions.max()) >= length:
            raise InvalidInputError(f"logit_positions must be below the {length} new tokens")
        if int(past_len.max()) + length > self.context:
            raise InvalidInputError(
                f"{length} new tokens after {int(past_len.max())} do not fit the cache of "
                f"{self.context} tokens"
            )
        with ENGINE_CALLS:
            self._run(ids, past_len, logit_positions, first)

    def decode(self, count: int | None = None) -> None:
        """Run the first `count` rows (None: all) of `next_ids` at `past_len`.

        This is `step` with one token per row, at less cost.

        Raises:
            InvalidInputError: if there are fewer rows, or the cache of a row is full.
        """
        if count is None:
            count = self.rows
        elif not 1 <= count <= self.rows:
            self._check_rows(0, count)
        lengths = self.past_len if count == self.rows else self.past_len[:count]
        longest = max(lengths.tolist())
        if longest >= self.context:
            raise InvalidInputError(f"the cache of {self.context} tokens is full")
        with ENGINE_CALLS:
            self._decode(count, longest)

    def reorder(self, parents: Sequence[int], slots: int, *, since: int = 0) -> None:
        """Give row i the content of row `parents[i]`, for all i; the rows after those become free.

        A row may be the parent of several rows. `reorder` moves the last row into the place of one
        that ended ([0, 3, 2] of 4), copies a row ([0, 1, 2, 1] of 3), and keeps the survivors of a
        beam search.

        Args:
            parents: rows, at most as many as the state has.
            slots: the most slots that are filled in any row; no others are copied.
            since: so many slots are equal already in each row and its parent; they are not copied.

        Raises:
            InvalidInputError: if there is no such row, or a row has fewer slots.
        """
        if not 1 <= len(parents) <= self.rows:
            raise InvalidInputError(
                f"{len(parents)} rows are to go on, and the state has {self.rows} rows"
            )
        fits = 0 <= since <= slots <= self.context
        if not (min(parents) >= 0 and max(parents) < self.rows and fits):
            raise InvalidInputError(
                f"cannot copy the slots {since} to {slots} of the rows {list(parents)}: the state "
                f"has {self.rows} rows of {self.context}"
            )
        moved = self._moved_sources(parents) if self.source_count else None
        targets = [row for row, parent in enumerate(parents) if row != parent]
        if targets and since < slots:
            self._copy_rows([parents[row] for row in targets], targets, since, slots)
        if moved is not None and moved != list(range(len(moved))):
            self._move_sources(moved)

    def _moved_sources(self, parents: Sequence[int]) -> list[int]:
        """Return which source the rows of each source have after `reorder`."""
        groups = [
            {row // self.rows_each for row in parents[first : first + self.rows_each]}
            for first in range(0, len(parents), self.rows_each)
        ]
        if len(parents) % self.rows_each or any(len(group) > 1 for group in groups):
            raise InvalidInputError(
                f"the rows {list(parents)} cannot go on: each source needs {self.rows_each} rows, "
                f"side by side"
            )
        return [source for (source,) in groups]

    def fill(self, past: Iterable[NDArray[np.float32]], row: int = 0) -> None:
        """Write the first slots of a row, in place of steps that would compute them.

        Args:
            past: float32 [K, P, D] for each cache of the graph, in the order of its inputs; rounded
                to the cache's type. One is needed at a time, so an iterator saves memory.
            row: the row. Its slots from P on may hold any finite numbers afterwards.

        Raises:
            InvalidInputError: if there is no such row, or it has fewer slots.
        """
        if not 0 <= row < self.rows:
            raise InvalidInputError(f"cannot fill row {row}: the state has {self.rows} rows")
        for cache, values in enumerate(past):
            if values.shape[1] > self.context:
                raise InvalidInputError(
                    f"cannot fill {values.shape[1]} slots: a row has {self.context}"
                )
            self._fill(cache, row, values)

    def past(self, slots: int, row: int = 0) -> list[NDArray[np.float32]]:
        """Return the first slots of a row, as `fill` takes them.

        These are copies, float32 [K, slots, D] for each cache of the graph. `fill` puts the same
        bits back into a cache of the same type.

        Raises:
            InvalidInputError: if there is no such row, or it has fewer slots.
            EngineError: if the engine cannot read its caches.
        """
        if not (0 <= row < self.rows and 0 <= slots <= self.context):
            raise InvalidInputError(
                f"cannot read {slots} slots of row {row}: the state has {self.rows} rows of "
                f"{self.context}"
            )
        return self._past(row, slots)

    def is_one_step(self, past_len: Ids, first: int) -> bool:
        """Return whether a step of several tokens runs these rows together, or one by one.

        Both compute the same; one by one takes the time of as many steps.
        """
        return True

    @abstractmethod
    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""

    def close(self) -> None:  # noqa: B027 - most states have nothing to give back
        """Return the state's memory to the engine; the state must not be used afterwards.

        A state that is dropped without `close` frees its memory.
        """

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error the buffers may hold anything, so they are dropped and not reused.
        if kind is None or kind is GeneratorExit:
            self.close()

    def _check_rows(self, first: int, count: int) -> None:
        if first < 0 or count < 1 or first + count > self.rows:
            what = f"rows {first} to {first + count - 1}" if first else f"{count} rows"
            raise InvalidInputError(f"the step has {what}, the state {self.rows} in all")
        if first % self.rows_each or count % self.rows_each:
            raise InvalidInputError(
                f"the step has {count} rows from row {first} on, which are not all rows of their "
                f"sources: each has {self.rows_each}"
            )

    @abstractmethod
    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        """Run checked inputs."""

    @abstractmethod
    def _decode(self, count: int, longest: int) -> None:
        """Run `count` rows of `next_ids` at `past_len`, whose largest value is `longest`."""

    @abstractmethod
    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        """Copy the slots `since` .. `slots` - 1 of each source row to its target row, all at once.

        A row may be both source and target: its content before the call is what is copied. No
        target occurs twice.
        """

    def _move_sources(self, parents: list[int]) -> None:
        """Give source i what source `parents[i]` has, for all i at once."""
        raise AssertionError("only a state with sources moves any")

    @abstractmethod
    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Write `values` [K, P, D] into the first slots of a row of the graph's cache number
        `cache`.
        """

    def _past(self, row: int, slots: int) -> list[NDArray[np.float32]]:
        """Return copies of the first slots of a row: [K, slots, D] for each cache."""
        raise EngineError("it cannot read its caches back")


class Engine(ABC):
    """A loaded graph. `close` frees it; its states must not be used afterwards.

    Attributes:
        graph: the graph of the decoder.
        encoder: the graph of the encoder, if the model has one.
        uniform: whether the bits of a row depend on its tokens alone, not on other rows nor on the
            pieces in which it was fed.
    """

    graph: Graph
    encoder: Graph | None = None
    uniform = False

    @property
    @abstractmethod
    def info(self) -> EngineInfo:
        """Name, version and device."""

    @abstractmethod
    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> State:
        """Return an empty cache for `rows` texts of up to `context` tokens.

        The decoder of an encoder-decoder needs the `sources` that its rows attend to.
        """

    def slots(self, needed: int, context: int) -> int:
        """Return how many slots the state of a call should have that fills at most `needed`.

        An engine that keeps states for later calls makes all of them for the whole `context`.
        """
        return context

    def encode(self, ids: Ids, lengths: Ids) -> Sources:
        """Encode sources.

        Args:
            ids: int64 [G, N]; shorter sources are padded on the right with any id.
            lengths: int64 [G], the tokens of each source, at least 1.
        """
        raise InvalidInputError("this model has no encoder, so it takes no source")

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds."""
