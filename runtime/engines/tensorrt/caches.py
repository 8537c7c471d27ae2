"""The cache of a session on the device: the addresses of its rows, and copies between them."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ...bundle.manifest import Graph
from ...cuda.memory import Cuda
from ..moves import SPARE, moves_in_order
from .flavour import writes_in_place

__all__ = ["Caches"]

ALIGNMENT = 256  # bytes; TensorRT requires it of an address


@dataclass(frozen=True)
class _Cache:
    """One cache [R, K, S, D]: its addresses before and after a step, and sizes in bytes.

    `present` equals `past` if TensorRT writes in place. A line is one head of a row, S * D numbers.
    """

    past: int
    present: int
    row: int
    line: int
    slot: int


class Caches:
    """Memory for `rows` texts of `context` tokens, by the names of the graph's cache inputs."""

    def __init__(self, cuda: Cuda, stack: ExitStack, graph: Graph, rows: int, context: int) -> None:
        """Allocate the caches; `stack` will free them.

        Raises:
            EngineError: if the GPU has no room.
        """
        self.cuda, self.rows = cuda, rows
        self.caches: dict[str, _Cache] = {}
        in_place = writes_in_place(graph)
        for port in graph.caches():
            shape = port.sized({"batch": rows, "context": context})  # [R, K, S, D]
            slot = shape[3] * port.itemsize
            line, row = slot * shape[2], slot * shape[2] * shape[1]
            past = cuda.allocate(stack, row * rows, "the cache")
            present = past
            if not in_place:
                present = cuda.allocate(stack, row * rows, "the cache's new version")
            self.caches[port.name] = _Cache(past, present, row, line, slot)
        self.spare: int | None = None
        self.staging: dict[str, tuple[int, int]] = {}  # a row of each cache, before and after
        sizes_of_rows = {cache.row for cache in self.caches.values()}
        self.aligned = [
            all(row * size % ALIGNMENT == 0 for size in sizes_of_rows) for row in range(rows)
        ]
        self.in_place = in_place

    def clear(self, stream: Any) -> None:
        """Set the cache to zero: NaN would spread to the results even from a masked slot."""
        for cache in self.caches.values():
            for pointer in {cache.past, cache.present}:
                self.cuda.clear(pointer, cache.row * self.rows, stream)

    def takes(self, first: int) -> bool:
        """Return whether TensorRT accepts the addresses of rows that begin at `first`."""
        return self.aligned[first]

    def begin(self, stack: ExitStack, first: int, stream: Any) -> None:
        """Prepare a step on rows that begin at `first`.

        If TensorRT does not accept their addresses, the step must be on the single row `first`.
        That row is then copied to a staging place, which `stack` frees.
        """
        if self.takes(first):
            return
        if not self.staging:
            staging = {}
            for name, cache in self.caches.items():
                past = present = self.cuda.allocate(stack, cache.row, "a row of the cache")
                if not self.in_place:
                    present = self.cuda.allocate(stack, cache.row, "a row of the cache")
                staging[name] = past, present
            self.staging = staging
        for name, cache in self.caches.items():
            home = self.home(name, first)
            self.cuda.within_device(self.staging[name][0], home, cache.row, stream)

    def home(self, name: str, row: int) -> int:
        """Return where a row of a cache lies between steps."""
        cache = self.caches[name]
        return cache.past + row * cache.row

    def addresses(self, name: str, first: int) -> tuple[int, int]:
        """Return where a step reads and where it writes the rows of a cache, from `first` on."""
        if not self.takes(first):
            return self.staging[name]
        cache = self.caches[name]
        return self.home(name, first), cache.present + first * cache.row

    def bring_home(self, first: int, count: int, stream: Any) -> None:
        """After a step on some rows, copy what it wrote elsewhere back into the cache."""
        if self.in_place and self.takes(first):
            return
        for name, cache in self.caches.items():
            home, written = self.home(name, first), self.addresses(name, first)[1]
            if written != home:
                self.cuda.within_device(home, written, count * cache.row, stream)

    def copy_rows(
        self,
        stack: ExitStack,
        sources: list[int],
        targets: list[int],
        since: int,
        slots: int,
        stream: Any,
    ) -> None:
        """Copy some slots of rows, see `State.reorder`; `stack` frees a spare row."""
        moves = moves_in_order(sources, targets)
        if any(SPARE in move for move in moves) and self.spare is None:
            largest = max(cache.row for cache in self.caches.values())
            self.spare = self.cuda.allocate(stack, largest, "a row on its way")
        for cache in self.caches.values():
            at = {row: cache.past + row * cache.row for row in range(self.rows)}
            if self.spare is not None:
                at[SPARE] = self.spare
            heads, skipped = cache.row // cache.line, since * cache.slot
            width = slots * cache.slot - skipped
            for source, target in moves:
                ends = at[target] + skipped, at[source] + skipped
                self.cuda.copy_lines(*ends, width, heads, cache.line, stream)
