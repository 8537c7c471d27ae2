"""Gives each tensor of a packed file its place, and looks up the bundle's weights by name.

The classes are those of source/description.h, field by field. Offsets are in bytes from the begin
of the file; 0 means that the model has no such tensor.
"""

from dataclasses import dataclass, field, replace

from ...bundle.manifest import Manifest, WeightEntry
from ...errors import BundleError
from .tensors import Floats, IntegerTiles, Kind, Rows, Scales, Tensor, Tiles

__all__ = ["HEADER", "Matrix", "Norm", "Packer", "Table"]

HEADER = 64  # bytes before the first tensor
ALIGNMENT = 64
FLOATS: dict[str, Kind] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Matrix:
    """A weight [outputs, inputs] in tiles, and where its scales and its bias are."""

    kind: Kind = "float32"
    outputs: int = 0
    inputs: int = 0
    block: int = 1
    weights: int = 0
    scales: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Norm:
    """The factors of a norm, and what it adds."""

    weight: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of floats."""

    kind: Kind = "float32"
    rows: int = 0


@dataclass
class Packer:
    """Gives each tensor its place."""

    manifest: Manifest
    tensors: list[tuple[int, Tensor]] = field(default_factory=list)
    end: int = HEADER

    def add(self, tensor: Tensor) -> int:
        """Return the offset of a new tensor."""
        offset = self.end
        self.tensors.append((offset, tensor))
        self.end = -(-(offset + tensor.size) // ALIGNMENT) * ALIGNMENT
        return offset

    def entry(self, name: str, *shapes: list[int]) -> WeightEntry:
        """Return the entry of a weight, which must have one of the shapes."""
        entry = self.manifest.weights.get(name)
        if entry is None or entry.shape not in shapes:
            found = "is missing" if entry is None else f"has the shape {entry.shape}"
            raise BundleError(f"the weight {name} {found}; the model needs {shapes[0]}")
        return entry

    def floats(self, name: str, *shape: int) -> int:
        """Add a weight as float32."""
        if self.entry(name, list(shape)).dtype not in FLOATS:
            raise BundleError(f"the weight {name} is not of floats")
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        return self.add(Floats(name, count))

    def optional(self, name: str, width: int) -> int:
        """Add a vector [width] if the bundle has it."""
        return self.floats(name, width) if name in self.manifest.weights else 0

    def norm(self, name: str, width: int) -> Norm:
        """Add the norm `name`, if the model has it."""
        return Norm(self.optional(f"{name}.weight", width), self.optional(f"{name}.bias", width))

    def table(self, name: str, count: int, width: int) -> Table:
        """Add a table as it is."""
        entry = self.entry(name, [count, width])
        if entry.dtype not in FLOATS:
            raise BundleError(f"the weight {name} is not of floats")
        return Table(FLOATS[entry.dtype], self.add(Rows(name, entry.size)))

    def matrix(self, layer: str, outputs: int, inputs: int, *, tied: str = "") -> Matrix:
        """Add the weight of `layer`, which may be the embedding's, and its bias."""
        name = tied or f"{layer}.weight"
        quantization = self.manifest.quantization
        if (
            self.manifest.weights.get(name) is not None
            and f"{name}.scales" in self.manifest.weights
        ):
            assert quantization is not None, "only quantised bundles have scales"
            found = self._integers(name, outputs, inputs, quantization.bits_of(name))
        else:
            shapes = [outputs, inputs], [inputs, outputs]
            kind = FLOATS.get(self.entry(name, shapes[0] if tied else shapes[1]).dtype)
            if kind is None:
                raise BundleError(f"the weight {name} is not of floats")
            tiles = Tiles(name, kind, outputs, inputs, by_inputs=not tied)
            found = Matrix(kind, outputs, inputs, 1, self.add(tiles))
        return replace(found, bias=self.optional(f"{layer}.bias", outputs))

    def _integers(self, name: str, outputs: int, inputs: int, bits: int) -> Matrix:
        stored = self.manifest.weights[name].shape
        block = stored[2] * 8 // bits if len(stored) == 3 else 0
        if block < 16 or block % 16:
            raise BundleError(f"the weight {name} has blocks of {block} inputs, not of 16 or more")
        blocks = -(-inputs // block)
        self.entry(name, [outputs, blocks, block * bits // 8])
        self.entry(f"{name}.scales", [outputs, blocks])
        tiles = self.add(IntegerTiles(name, outputs, blocks, block, bits))
        scales = self.add(Scales(f"{name}.scales", outputs, blocks))
        return Matrix("int8" if bits == 8 else "int4", outputs, inputs, block, tiles, scales)
