"""Beginnings of texts whose keys and values are kept in a folder, from one run to the next.

A file has the ids int64 [P] of a prefix, and float32 [K, P, D] for each cache of the graph. It
belongs to one bundle and one engine, whose hash begins its name; the rest of the name is the hash
of the ids. Its metadata have the hash of all that is in it. A file is read as a whole and checked
before anything of it reaches a cache: whatever is wrong with it, its prefix is fed again.
"""

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..engines.base import Engine
from ..errors import DataError, EdgeGPTWarning
from ..files import write_file
from ..quantity import quantity

__all__ = ["Prefix", "PrefixStore"]

FORMAT = "edgegpt-prefix-1"
MOST_BYTES = 2**30  # of all files in a folder
NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.safetensors")
# What a writer that was killed leaves begins with a dot, and ends with what `write_file` adds.
OWN = re.compile(rf"\.?{NAME.pattern}(\.\w+)?")

Past = list[NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Token ids, and the file that has their keys and values."""

    ids: list[int]
    path: Path


class PrefixStore:
    """The prefixes in a folder that were fed by this engine, on this bundle.

    Attributes:
        prefixes: what is there.
    """

    def __init__(self, folder: Path, bundle: str, engine: Engine) -> None:
        """Make the folder, or look through it; warn once about files that are of no use.

        Args:
            folder: the folder; only files that this class named are read or removed.
            bundle: the bundle's id.
            engine: what feeds the prefixes. Its processor, threads and version are told apart,
                since they choose kernels, and so the last bits.

        Raises:
            DataError: if it is no folder, or cannot be made or read.
        """
        self.folder, self._ports = folder, engine.graph.caches()
        facts = asdict(engine.info) | {"bundle": bundle, "graph": engine.graph.name}
        facts |= {"format": FORMAT, "caches": [port.dtype for port in self._ports]}
        self._owner = _hashed(json.dumps(facts, sort_keys=True).encode())
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a prompt can be told from it
            names = sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name))
        except OSError as error:
            raise DataError(f"cannot keep prefixes in {folder}: {error.strerror}") from error
        own = [name for name in names if name.startswith(self._owner[:16])]
        found = [self._open(folder / name) for name in own]
        self.prefixes = [one for one in found if one is not None]
        _warn_of(folder, foreign=len(names) - len(own), damaged=found.count(None))

    def find(self, ids: Sequence[int]) -> Prefix | None:
        """Return the prefix of exactly these ids, if it is there; it was used now."""
        for prefix in self.prefixes:
            if prefix.ids == list(ids):
                with contextlib.suppress(OSError):  # a folder that may only be read
                    os.utime(prefix.path)
                return prefix
        return None

    def read(self, prefix: Prefix) -> Past | None:
        """Return the keys and values of a prefix, for `State.fill`.

        None, with a warning, if its file is damaged or gone; it is not in `prefixes` then.
        """
        try:
            return self._read(prefix.path, prefix.ids)[1]
        except DataError as error:
            self.prefixes.remove(prefix)
            warnings.warn(f"{error}; it is not used any more", EdgeGPTWarning, stacklevel=2)
            return None

    def write(self, ids: Sequence[int], past: Past) -> Prefix:
        """Keep a prefix; older files of the folder go if it has no room.

        Raises:
            DataError: if the file cannot be written, or is larger than all may be together.
        """
        path = self._path(ids)
        arrays: dict[str, NDArray[Any]] = {"ids": np.array(ids, dtype=np.int64)}
        arrays |= {port.name: values for port, values in zip(self._ports, past, strict=True)}
        data = save(arrays, self._told(arrays))
        try:
            self._make_room(len(data))
            write_file(path, data)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        prefix = Prefix(list(ids), path)
        self.prefixes.append(prefix)
        return prefix

    def _open(self, path: Path) -> Prefix | None:
        """Return the prefix in a file; None if the file is damaged."""
        try:
            return Prefix(self._read(path)[0], path)
        except DataError:
            return None

    def _read(self, path: Path, wanted: Sequence[int] | None = None) -> tuple[list[int], Past]:
        """Return ids and caches of a file.

        Raises:
            DataError: if it is not whole, as it was written, and of the `wanted` ids.
        """
        damaged = DataError(f"the kept prefix {path} is damaged or gone")
        try:
            if not path.is_file() or path.stat().st_size > MOST_BYTES:
                raise damaged
            data = path.read_bytes()
            arrays = load(data)
            length = int.from_bytes(data[:8], "little")
            told = json.loads(data[8 : 8 + length]).get("__metadata__")
        except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise damaged from error
        names = [port.name for port in self._ports]
        if set(arrays) != {"ids", *names} or arrays["ids"].dtype != np.int64:
            raise damaged
        ids = arrays["ids"]
        shapes = {
            port.name: port.sized({"batch": 1, "context": ids.size})[1:] for port in self._ports
        }
        fits = ids.ndim == 1 and all(
            arrays[name].dtype == np.float32 and arrays[name].shape == shapes[name]
            for name in names
        )
        found = ids.tolist()
        if not fits or told != self._told(arrays) or self._path(found) != path:
            raise damaged
        if wanted is not None and found != wanted:
            raise damaged
        return found, [arrays[name] for name in names]

    def _path(self, ids: Sequence[int]) -> Path:
        """Return the file of a prefix; its name tells no more of the ids than a hash does."""
        own = _hashed(self._owner.encode() + np.array(ids, dtype="<i8").tobytes())
        return self.folder / f"{self._owner[:16]}-{own[:32]}.safetensors"

    def _told(self, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
        """Return the metadata of a file: a hash of whose it is, and of all about its arrays."""
        found = hashlib.sha256(self._owner.encode())
        for name in ("ids", *(port.name for port in self._ports)):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {array.dtype.str} {array.shape}".encode())
            found.update(array.data)
        return {"format": FORMAT, "sha256": found.hexdigest()}

    def _make_room(self, size: int) -> None:
        """Remove files that this class named, the longest unused first, until `size` bytes fit."""
        files = [path for path in self.folder.iterdir() if OWN.fullmatch(path.name)]
        there = {path: path.lstat() for path in files}
        kept = {prefix.path for prefix in self.prefixes}
        total = size + sum(one.st_size for one in there.values())
        for path in sorted(set(files) - kept, key=lambda one: there[one].st_mtime):
            if total <= MOST_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= there[path].st_size
        if total > MOST_BYTES:
            raise DataError(
                f"{self.folder} has no room for {size / 1e6:,.1f} MB more: prefixes may take "
                f"{MOST_BYTES / 1e6:,.0f} MB in all"
            )


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _warn_of(folder: Path, *, foreign: int, damaged: int) -> None:
    """Say once which files of a folder are of no use."""
    parts = []
    if foreign:
        parts.append(f"{quantity(foreign, 'file')} of another bundle or engine")
    if damaged:
        parts.append(quantity(damaged, "damaged file"))
    if parts:
        told = f"{folder} has {' and '.join(parts)}, which nothing is read from"
        warnings.warn(told, EdgeGPTWarning, stacklevel=3)
