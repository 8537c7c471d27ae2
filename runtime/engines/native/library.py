"""The C interface of a compiled engine (`source/edgegpt.h`), by ctypes.

A call gives up the interpreter's lock while it runs. All arguments are checked on the other side
of the border, too: a wrong one is an error with a sentence.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ...files import library_path

__all__ = ["ABI", "Library", "NativeModel", "NativeRows", "NativeSources"]

ABI = 2  # of edgegpt.h
MESSAGE_BYTES = 256
Pointer = ctypes.c_void_p
INTS32 = np.dtype(np.int32)
CACHE_TYPES = {"float32": 0, "float16": 1}


class _Facts(ctypes.Structure):
    """`edgegpt_facts`."""

    _fields_ = (
        ("abi", ctypes.c_int32),
        ("vocab", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("source_vocab", ctypes.c_int32),
        ("source_block_size", ctypes.c_int32),
        ("target", ctypes.c_char_p),
        ("features", ctypes.c_char_p),
    )


class Library:
    """A loaded shared library. Loading runs none of its kernels, so it is safe on any processor.

    Attributes:
        path: the file.
        facts: the shape that it is compiled for.
    """

    def __init__(self, path: Path) -> None:
        """Load the file `path`.

        Raises:
            EngineError: if it cannot be loaded, or has another interface.
        """
        self.path = path
        try:
            self.calls: Any = ctypes.CDLL(library_path(path))
            about = self.calls.edgegpt_about
        except (OSError, AttributeError) as error:
            raise EngineError(f"{path} cannot be loaded: {error}") from error
        about.restype = ctypes.POINTER(_Facts)
        self.facts: Any = about().contents
        if self.facts.abi != ABI:
            raise EngineError(f"{path} has interface {self.facts.abi}, this edgegpt needs {ABI}")
        _declare(self.calls)

    def open(self, weights: Path, threads: int) -> "NativeModel":
        """Map the packed weights.

        Raises:
            EngineError: if they are of another model, or this processor lacks what it needs.
        """
        found = Pointer()
        path = library_path(weights).encode()
        self.checked("edgegpt_open", path, threads, ctypes.byref(found))
        return NativeModel(self, found)

    def checked(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a code and writes a message."""
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        if getattr(self.calls, name)(*arguments, message):
            raise EngineError(message.value.decode(errors="replace"))


class NativeModel:
    """Mapped weights and a team of threads."""

    def __init__(self, library: Library, handle: Any) -> None:
        self.library, self.handle = library, handle

    def encode(
        self, lengths: NDArray[np.int32], ids: NDArray[np.int64], cache: str = "float32"
    ) -> "NativeSources":
        """Encode sources.

        Args:
            lengths: int32 [G], the tokens of each.
            ids: int64 [sum of lengths], the tokens, source after source.
            cache: type of their keys and values.
        """
        found = Pointer()
        self.library.checked(
            "edgegpt_encode",
            self.handle,
            len(lengths),
            *(_place(lengths), _place(ids)),
            *(CACHE_TYPES[cache], ctypes.byref(found)),
        )
        return NativeSources(self, found, len(lengths))

    def new_rows(
        self,
        rows: int,
        context: int,
        cache: str = "float32",
        sources: "NativeSources | None" = None,
    ) -> "NativeRows":
        """Return an empty cache for `rows` texts of up to `context` tokens.

        A model with an encoder needs the `sources` that they read.
        """
        found = Pointer()
        self.library.checked(
            "edgegpt_new_state",
            self.handle,
            None if sources is None else sources.handle,
            *(rows, context, CACHE_TYPES[cache], ctypes.byref(found)),
        )
        return NativeRows(self, found, sources)

    def __del__(self) -> None:
        self.library.calls.edgegpt_close(self.handle)


class NativeSources:
    """What an encoder has made of sources. It keeps the model alive, whose memory it uses."""

    def __init__(self, model: NativeModel, handle: Any, count: int) -> None:
        self.model, self.handle, self.count = model, handle, count

    def __del__(self) -> None:
        self.model.library.calls.edgegpt_free_sources(self.handle)


class NativeRows:
    """A cache. It keeps the model and the sources alive, whose memory it uses."""

    def __init__(self, model: NativeModel, handle: Any, sources: NativeSources | None) -> None:
        self.model, self.handle, self.sources = model, handle, sources
        self.vocab = int(model.library.facts.vocab)

    def step(
        self,
        rows: NDArray[np.int32],
        counts: NDArray[np.int32],
        past: NDArray[np.int64],
        ids: NDArray[np.int64],
        positions: NDArray[np.int32],
        logits: NDArray[np.float32],
    ) -> None:
        """Run new tokens of some rows.

        Args:
            rows: int32 [n], which rows, each at most once.
            counts: int32 [n], new tokens of each.
            past: int64 [n], filled slots of each.
            ids: int64 [sum of counts], the new tokens, row after row.
            positions: int32 [w], indices into `ids` of the tokens whose logits are wanted.
            logits: float32 [w, V], where they are written.
        """
        self.model.library.checked(
            "edgegpt_step",
            self.handle,
            len(rows),
            *(_place(rows), _place(counts), _place(past), _place(ids)),
            len(positions),
            *(_place(positions), _place(logits)),
        )

    def copy(self, sources: Sequence[int], targets: Sequence[int], since: int, slots: int) -> None:
        """Copy slots of rows to other rows, all at once."""
        pairs = np.array([sources, targets], dtype=np.int32)  # (2, n)
        self.model.library.checked(
            "edgegpt_copy_rows",
            self.handle,
            len(sources),
            *(_place(pairs[0]), _place(pairs[1])),
            *(since, slots),
        )

    def move_sources(self, parents: Sequence[int]) -> None:
        """Let the rows of source i read what source `parents[i]` was, for all i at once."""
        places = np.array(parents, dtype=np.int32)  # (n,)
        self.model.library.checked("edgegpt_move_sources", self.handle, len(places), _place(places))

    def fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Write `values` [K, P, D] into the first slots of a row; keys are even caches."""
        held = np.ascontiguousarray(values, dtype=np.float32)
        self.model.library.checked(
            "edgegpt_fill", self.handle, cache, row, held.shape[1], _place(held)
        )

    def read(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        """Fill `values` [K, P, D] with the first slots of a row; see `fill`."""
        library = self.model.library
        library.checked("edgegpt_read", self.handle, cache, row, values.shape[1], _place(values))

    def __del__(self) -> None:
        self.model.library.calls.edgegpt_free_state(self.handle)


def _declare(calls: Any) -> None:
    """Tell ctypes the types of the arguments; all but those that free return a code."""
    number, text = ctypes.c_int, ctypes.c_char_p
    calls.edgegpt_open.argtypes = [text, number, Pointer, text]
    calls.edgegpt_encode.argtypes = [Pointer, number, *[Pointer] * 2, number, Pointer, text]
    calls.edgegpt_new_state.argtypes = [*[Pointer] * 2, *[number] * 3, Pointer, text]
    calls.edgegpt_step.argtypes = [Pointer, number, *[Pointer] * 4, number, *[Pointer] * 2, text]
    calls.edgegpt_copy_rows.argtypes = [Pointer, number, *[Pointer] * 2, number, number, text]
    calls.edgegpt_move_sources.argtypes = [Pointer, number, Pointer, text]
    for moving in (calls.edgegpt_fill, calls.edgegpt_read):
        moving.argtypes = [Pointer, *[number] * 3, Pointer, text]
    for name in ("close", "free_state", "free_sources"):
        freeing = getattr(calls, f"edgegpt_{name}")
        freeing.argtypes, freeing.restype = [Pointer], None


def _place(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)
