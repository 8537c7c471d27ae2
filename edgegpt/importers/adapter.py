"""LoRA adapters of PEFT, merged into the weights of a checkpoint while they are read.

A LoRA adapter holds two narrow matrices for each weight that it changes, A [r, in] and B [out, r];
the weight becomes W + scale * B @ A. What the adapter does not hold stays as it is, so its list of
target modules decides nothing here. Merged weights are float32, because a sum of two bfloat16
numbers seldom is one.

Source: Hu et al. 2021, "LoRA"; Kalajdzievski 2023, "rsLoRA" (the other scale); the names and
settings are those of the library peft.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model import Seq2SeqConfig
from ..user_files import is_file, read_json
from .adapter_rules import Rules
from .huggingface import ADAPTER_SETTINGS
from .run import config_of
from .source import Source
from .tensors import SafeTensors, Tensors

__all__ = ["AdaptedTensors", "Update", "adapted"]

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
# Matrices of a linear layer, and of an embedding, whose [rows, columns] are transposed to them.
MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_(?:([AB])\.weight|embedding_([AB]))")
# With an adapter on the embedding or the head, peft saves a copy of both, as they were.
COPY = re.compile(r"base_model\.model\.(.+?)(?:\.base_layer)?\.weight")


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one weight.

    Attributes:
        a: name of the matrix A [r, in] in the adapter's file.
        b: name of the matrix B [out, r].
        scale: factor on B @ A.
        transposed: whether the weight is stored as [in, out].
    """

    a: str
    b: str
    scale: float
    transposed: bool


class AdaptedTensors:
    """The tensors of `base`, of which those with an update are merged when they are read.

    `copies` names those of which the adapter has a copy, which must be as they are.
    """

    def __init__(
        self,
        base: Tensors,
        adapter: SafeTensors,
        updates: Mapping[str, Update],
        copies: Mapping[str, str],
    ) -> None:
        self._base, self._adapter, self._updates, self._copies = base, adapter, updates, copies

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the base."""
        return self._base.shapes

    def dtype(self, name: str) -> torch.dtype:
        """Return float32 for a merged tensor, and the base's type for the others."""
        own = self._base.dtype(name)
        return torch.float32 if name in self._updates else own

    def read(self, name: str) -> Tensor:
        """Return the tensor, merged with its update if it has one.

        Raises:
            CheckpointError: if a matrix of the update has values that are not finite, or if the
                adapter has another weight in its place.
        """
        weight, update, copy = (
            self._base.read(name),
            self._updates.get(name),
            self._copies.get(name),
        )
        if copy is not None and not torch.equal(self._adapter.read(copy), weight):
            raise CheckpointError(
                f"{self._adapter.place(copy)}: {copy} differs from {name} of {self.place(name)}; a "
                f"weight that was trained as a whole is not merged"
            )
        if update is None:
            return weight
        change = update.scale * (self._matrix(update.b) @ self._matrix(update.a))  # [out, in]
        return weight.float() + (change.T if update.transposed else change)

    def place(self, name: str) -> str:
        """Return the base's file."""
        return self._base.place(name)

    def _matrix(self, name: str) -> Tensor:
        matrix = self._adapter.read(name).float()
        if not matrix.isfinite().all():
            raise CheckpointError(
                f"{self._adapter.place(name)}: {name} has values that are not finite"
            )
        return matrix


def adapted(source: Source, folder: Path) -> Source:
    """Return `source` with the LoRA adapter in `folder` merged into its tensors.

    Raises:
        CheckpointError: names the setting or the tensor for which the adapter cannot be merged.
    """
    settings, weights = _files(folder)
    config = config_of(source)
    if isinstance(config, Seq2SeqConfig):
        raise CheckpointError(f"{folder}: adapters of encoder-decoders are not merged")
    rules, adapter = Rules(read_json(settings), str(settings)), SafeTensors([weights])
    tied = config.tie_embeddings
    updates, copies = {}, {}
    pairs: dict[str, dict[str, str]] = {}
    for name in adapter.shapes:
        adapter.dtype(name)  # refuses types that are no weights
        if (match := MATRIX.fullmatch(name)) is not None:
            pairs.setdefault(match[1], {})[match[2] or match[3]] = name
        else:
            copies[_copied(name, source, adapter)] = name
    if not pairs:
        raise CheckpointError(f"{weights} holds no matrices of LoRA")
    for module, pair in pairs.items():
        target = _target(module, source, tied, weights)
        if target in updates:
            raise CheckpointError(
                f"{weights}: {module} changes {target}, which another one changes"
            )
        updates[target] = _update(module, pair, rules, adapter, tied)
    _check_shapes(updates, source.tensors.shapes, adapter, rules)
    tensors = AdaptedTensors(source.tensors, adapter, updates, copies)
    return replace(
        source, tensors=tensors, notes=(*source.notes, *rules.notes, *_other(rules, source))
    )


def _files(folder: Path) -> tuple[Path, Path]:
    """Return the files of an adapter's settings and weights, or say what is there instead."""
    settings, path = folder / ADAPTER_SETTINGS, folder / WEIGHTS
    if not folder.is_dir():
        there = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {there}; --adapter takes the folder of a LoRA adapter")
    if not is_file(settings):
        raise CheckpointError(f"{folder} is no LoRA adapter of PEFT: it has no {ADAPTER_SETTINGS}")
    if not is_file(path) and is_file(folder / PICKLED):
        raise CheckpointError(
            f"{folder / PICKLED} is pickled; adapters are read from {WEIGHTS} only: save it again "
            f"with a newer peft"
        )
    return settings, path


def _other(rules: Rules, source: Source) -> list[str]:
    """Return a note if the adapter names another base than the model's name."""
    if not isinstance(rules.base, str) or _last(rules.base) in ("", _last(source.name)):
        return []
    return [
        f"the adapter was made for {rules.base!r:.120}, and the model is called "
        f"{source.name!r:.120}: check that they are the same"
    ]


def _last(name: str) -> str:
    """Return the last part of a path or of a Hub id, without the commit."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0].lower()


def _copied(name: str, source: Source, adapter: SafeTensors) -> str:
    """Return the weight of the base of which the adapter has a copy; refuse anything else."""
    match, shapes = COPY.fullmatch(name), source.tensors.shapes
    found = [] if match is None else [one for one in _names(match[1]) if one in shapes]
    if not found:
        raise CheckpointError(
            f"{adapter.place(name)}: {name} is no matrix of LoRA, nor a copy of "
            f"a weight of the base; nothing else is merged"
        )
    if shapes[found[0]] != adapter.shapes[name]:
        raise CheckpointError(
            f"{adapter.place(name)}: {name} has the shape {list(adapter.shapes[name])}, but "
            f"{found[0]} {list(shapes[found[0]])}: an adapter that resizes a weight is not merged"
        )
    return found[0]


def _names(module: str) -> tuple[str, str]:
    """Return the possible names of a module's weight; files without a head lack the first part."""
    return f"{module}.weight", f"{module.partition('.')[2]}.weight"


def _target(module: str, source: Source, tied: bool, path: Path) -> str:
    """Return the base weight of a module."""
    head = module.endswith("head")
    for name in _names(module):
        if name in source.tensors.shapes and not (head and tied):
            return name
    why = ": it may be tied with the embedding, which is not merged" if head else ""
    raise CheckpointError(f"{path}: {source.name} has no weight of its own for {module}{why}")


def _update(
    module: str, pair: dict[str, str], rules: Rules, adapter: SafeTensors, tied: bool
) -> Update:
    if len(pair) < 2:
        (name,) = pair.values()
        raise CheckpointError(f"{adapter.place(name)}: {name} lacks its other half")
    a, b = pair["A"], pair["B"]
    rank = adapter.shapes[a][0] if adapter.shapes[a] else 0
    if rank != rules.rank_of(module):
        raise CheckpointError(
            f"{adapter.place(a)}: {a} has the shape {list(adapter.shapes[a])}; by the settings its "
            f"rank is {rules.rank_of(module):g}"
        )
    if not rules.choose(module):
        raise CheckpointError(
            f"{adapter.place(a)}: {a} is of a module that target_modules, exclude_modules and "
            f"layers_to_transform in {ADAPTER_SETTINGS} leave out"
        )
    embedding = a.endswith(".lora_embedding_A")
    if embedding and tied:
        raise CheckpointError(
            f"{adapter.place(a)}: {module} is tied with the head, which would change, too; an "
            f"adapter on it is not merged"
        )
    return Update(a, b, rules.scale_of(module), rules.transposed or embedding)


def _check_shapes(
    updates: dict[str, Update],
    base: Mapping[str, tuple[int, ...]],
    adapter: SafeTensors,
    rules: Rules,
) -> None:
    """Refuse matrices whose product is not of the weight's shape."""
    for target, update in updates.items():
        rank, shape = adapter.shapes[update.a][0], base[target]
        rows = tuple(reversed(shape)) if update.transposed else shape
        wanted = {update.a: (rank, *rows[1:]), update.b: (*rows[:1], rank)}
        for name, expected in wanted.items():
            if len(shape) != 2 or adapter.shapes[name] != expected:
                raise CheckpointError(
                    f"{adapter.place(name)}: {name} has the shape {list(adapter.shapes[name])}, "
                    f"which does not fit {target} with the shape {list(shape)}"
                )
    square = all(len(set(base[target])) == 1 for target in updates)
    if rules.transposed and square:
        raise rules.error(
            "fan_in_fan_out is true, and all weights are square, so that nothing shows whether "
            "they are transposed"
        )
