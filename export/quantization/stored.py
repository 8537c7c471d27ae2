"""Quantised weights in files, while a whole float32 model is in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from .blocks import BlockQuantized

__all__ = ["StoredIntegers"]


class StoredIntegers(Mapping[str, BlockQuantized]):
    """Quantised weights by name. Each access reads the weight again."""

    def __init__(self, weights: Mapping[str, BlockQuantized], folder: Path) -> None:
        """Write each of `weights` to a file in `folder`."""
        self.paths = {}
        for index, (name, weight) in enumerate(weights.items()):
            parts = {field.name: getattr(weight, field.name) for field in fields(weight)}
            self.paths[name] = folder / f"{index}.npz"
            np.savez(self.paths[name], **parts)

    def __getitem__(self, name: str) -> BlockQuantized:
        """Return the weight `name`."""
        with np.load(self.paths[name]) as parts:
            rows, width = parts["shape"].tolist()
            return BlockQuantized(
                bits=int(parts["bits"]),
                block=int(parts["block"]),
                shape=(rows, width),
                packed=parts["packed"],
                scales=parts["scales"],
            )

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all weights."""
        return iter(self.paths)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.paths)
