"""The engine that is compiled for one model and one processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Graph
from ...errors import EngineError, InvalidInputError
from ...machine import fast_cores
from ..base import Engine, EngineInfo, Ids, Sources, State
from ..calls import ENGINE_CALLS
from .library import Library, NativeModel, NativeSources
from .store import Built

__all__ = ["NativeEngine"]

DIGITS = 8  # of the hash of a library in the name of a version


class NativeEngine(Engine):
    """A compiled library and its packed weights, which all states share."""

    uniform = True

    def __init__(
        self,
        built: Built,
        graph: Graph,
        threads: int | None = None,
        cache: str = "float32",
        *,
        encoder: Graph | None = None,
        library: Library | None = None,
    ) -> None:
        """Load what was built.

        Args:
            built: a checked build.
            graph: a decoder of the bundle, which has the shapes and the type of the caches.
            threads: threads of a step; None: as many as fast cores.
            cache: type of keys and values, "float32" or "float16".
            encoder: an encoder of the bundle, if the model has one.
            library: one for the same weights, in place of what was built.

        Raises:
            EngineError: if it is damaged, or for another processor.
        """
        self.built, self.graph, self.encoder, self.cache = built, graph, encoder, cache
        self.threads = threads or fast_cores()
        opened = (library or built.library()).open(built.weights, self.threads)
        self.model: NativeModel | None = opened

    @property
    def info(self) -> EngineInfo:
        """Name, version and device; another library is another version."""
        identity = self.built.identity
        return EngineInfo(
            "native",
            self.built.library_sha256[:DIGITS],
            "cpu" if self.cache == "float32" else f"cpu, cache in {self.cache}",
            self.threads,
            processor=identity.features,
            half_cache=self.cache == "float16",
        )

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> NativeState:
        """Return an empty cache for `rows` texts of up to `context` tokens; see `Engine`."""
        return NativeState(self, self.opened(), rows, context, sources)

    def encode(self, ids: Ids, lengths: Ids) -> Sources:
        """Encode sources; see `Engine`."""
        if self.encoder is None:
            return super().encode(ids, lengths)
        if len(ids) != len(lengths) or lengths.min() < 1 or lengths.max() > ids.shape[1]:
            raise InvalidInputError(
                f"{len(lengths)} sources of {lengths.min()} to {lengths.max()} tokens are not in "
                f"{len(ids)} rows of {ids.shape[1]}"
            )
        counts = np.ascontiguousarray(lengths, dtype=np.int32)
        own = np.arange(ids.shape[1]) < lengths[:, None]  # (G, N)
        with ENGINE_CALLS:
            encoded = self.opened().encode(counts, ids[own].astype(np.int64), self.cache)
        return Sources(lengths, [encoded])

    def slots(self, needed: int, context: int) -> int:
        """Return what the call needs: new memory costs time where it is first written."""
        return min(needed, context)

    def opened(self) -> NativeModel:
        """Return the model; an EngineError if it was closed, perhaps by another thread."""
        if self.model is None:
            raise EngineError("the model was closed")
        return self.model

    def close(self) -> None:
        """Drop the model, whose memory goes with the last of its states."""
        self.model = None


class NativeState(State):
    """Rows of the library's cache."""

    def __init__(
        self,
        engine: NativeEngine,
        model: NativeModel,
        rows: int,
        context: int,
        sources: Sources | None = None,
    ) -> None:
        super().__init__(rows, context, None if sources is None else sources.count)
        self.engine, self.model = engine, model
        encoded: NativeSources | None = None if sources is None else sources.caches[0]
        self.cache = model.new_rows(rows, context, engine.cache, encoded)
        self.result: NDArray[np.float32] = np.empty((0, 1, self.cache.vocab), dtype=np.float32)
        self.singles = np.empty((rows, 1, self.cache.vocab), dtype=np.float32)
        self.row_numbers = np.arange(rows, dtype=np.int32)
        self.ones = np.ones(rows, dtype=np.int32)

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""
        return self.result

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        (count, length), wanted = ids.shape, logit_positions.shape[1]
        row = np.arange(count, dtype=np.int32)[:, None]  # (B, 1)
        places = (row * length + logit_positions).astype(np.int32)  # (B, P)
        self.result = np.empty((count, wanted, self.cache.vocab), dtype=np.float32)
        self._step(
            self.row_numbers[first : first + count],
            np.full(count, length, dtype=np.int32),
            np.ascontiguousarray(past_len, dtype=np.int64),
            np.ascontiguousarray(ids, dtype=np.int64).reshape(-1),  # (B * T,)
            places.reshape(-1),  # (B * P,)
        )

    def _decode(self, count: int, longest: int) -> None:
        self.result = self.singles[:count]
        rows, ones = self.row_numbers[:count], self.ones[:count]
        self._step(rows, ones, self.past_len, self.next_ids, rows)

    def _move_sources(self, parents: list[int]) -> None:
        self.cache.move_sources(parents)

    def _step(
        self,
        rows: NDArray[np.int32],
        counts: NDArray[np.int32],
        past: Ids,
        ids: Ids,
        places: NDArray[np.int32],
    ) -> None:
        self.engine.opened()
        self.cache.step(rows, counts, past, ids, places, self.result)

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        self.cache.copy(sources, targets, since, slots)

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        self.cache.fill(cache, row, values)

    def _past(self, row: int, slots: int) -> list[NDArray[np.float32]]:
        facts = self.cache.model.library.facts
        shape = (int(facts.kv_heads), slots, int(facts.head_dim))
        caches = [np.empty(shape, dtype=np.float32) for _ in range(2 * int(facts.layers))]
        for number, values in enumerate(caches):
            self.cache.read(number, row, values)
        return caches
