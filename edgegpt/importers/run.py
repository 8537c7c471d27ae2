"""From a checkpoint elsewhere to a checkpoint folder: look, check, then copy tensor by tensor.

Settings, names and shapes are checked before a value is read. Each tensor is then read, changed,
checked and written before the next one, so that a model of any size needs little memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegpt.runtime.bundle.source import Source as Origin
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.progress import Progress, silent

from ..checkpoint import save_config
from ..errors import CheckpointError, InvalidInputError
from ..model import GPTConfig, Seq2SeqConfig
from ..model_weights import is_finite, skeleton
from ..tensor_file import layout_of, raw_bytes, write_tensors
from .architectures import FAMILIES, REFUSED
from .family import Family
from .layout import Layout, Piece, Shape, Weight
from .names import listed
from .pair import PairLayout, plan_pair
from .plan import padded, plan
from .settings import REFUSED as REFUSED_SETTINGS
from .settings import SourceSettings
from .source import Source
from .tensors import Tensors

__all__ = ["Import", "asked_for", "config_of", "look", "write"]

# What is refused of an encoder-decoder is the rest.
REFUSED_OF_PAIRS = {
    name: reason for name, reason in REFUSED_SETTINGS.items() if name != "is_encoder_decoder"
}


@dataclass(frozen=True)
class Import:
    """A checkpoint that was looked at and can be imported.

    `copies` are tensors that only repeat a parameter of ours: the parameter's name by theirs.
    """

    source: Source
    family: Family
    config: GPTConfig | Seq2SeqConfig
    layout: Layout | PairLayout
    weights: dict[str, Weight]
    copies: dict[str, str]
    notes: list[str]

    @property
    def parameter_count(self) -> int:
        """The number of values in all parameters; tied ones count once."""
        return sum(prod(weight.shape) for weight in self.weights.values())

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The type in which each parameter is stored: the source's where it holds the values."""
        return {name: _dtype(weight, self.source.tensors) for name, weight in self.weights.items()}

    @property
    def size(self) -> int:
        """The bytes of all parameters, as they are stored."""
        dtypes = self.dtypes
        return sum(prod(w.shape) * dtypes[name].itemsize for name, w in self.weights.items())

    def value(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a parameter of ours, read from the source, as `dtype`."""
        return _value(self.weights[name], self.source.tensors, dtype)


def look(source: Source) -> Import:
    """Check a checkpoint without reading the values of its tensors.

    Raises:
        CheckpointError: names the setting or the tensor for which it cannot be imported.
    """
    planned = _planned(source)
    weights = _found(planned.weights, planned.layout, source.tensors)
    _check_shapes(weights, source)
    _check_left_over(weights, planned, source.tensors)
    return replace(planned, weights=weights)


def config_of(source: Source) -> GPTConfig | Seq2SeqConfig:
    """Return the settings that the model will have, whatever tensors there are.

    Raises:
        CheckpointError: names the setting for which the checkpoint cannot be imported.
    """
    return _planned(source).config


def asked_for(source: Source) -> list[str]:
    """Return the names of the tensors that the settings of a checkpoint call for.

    Raises:
        CheckpointError: names the setting for which it cannot be imported.
    """
    return [piece.name for piece in _pieces(_planned(source).weights)]


def _planned(source: Source) -> Import:
    """Return the import as the settings want it, whatever tensors there are."""
    family = _family(source)
    settings = SourceSettings(
        source.settings,
        source.where,
        refused=REFUSED_OF_PAIRS if family.pair else REFUSED_SETTINGS,
        tensors=source.tensors.shapes,
    )
    try:
        config = family.config(settings)
        layout = family.layout_for(settings)
    except InvalidInputError as error:
        raise settings.error(str(error)) from error
    settings.finish()
    shapes = parameter_shapes(config)
    notes = [*source.notes, *settings.notes]
    if isinstance(config, Seq2SeqConfig):
        assert isinstance(layout, PairLayout)
        weights = plan_pair(layout, config, shapes)
        return Import(source, family, config, layout, weights, layout.copies(config), notes)
    assert isinstance(layout, Layout)
    weights = plan(layout, config, shapes)
    return Import(source, family, padded(config), layout, weights, layout.copies(config), notes)


def parameter_shapes(config: GPTConfig | Seq2SeqConfig) -> dict[str, Shape]:
    """Return the shape of each parameter of a model; a tied one occurs once."""
    if isinstance(config, GPTConfig):
        # Without rotations, because their tables are no parameters, and may be long.
        position: Any = "none" if config.position == "rope" else config.position
        config = replace(config, position=position, layer_kinds=(), layer_kind=())
    named = skeleton(config).named_parameters()
    return {name: tuple(parameter.shape) for name, parameter in named}


def write(
    found: Import,
    folder: Path,
    usage: Usage | None = None,
    origin: Origin | None = None,
    progress: Progress = silent,
) -> None:
    """Write config.json and model.safetensors of the imported model into `folder`.

    Raises:
        CheckpointError: for a tensor with values that are not finite, and for a head or another
            embedding that is stored although it is tied, and differs.
    """
    save_config(folder, found.config, usage, origin)
    dtypes = found.dtypes
    _check_copies(found)
    layouts = {
        name: layout_of(torch.empty(weight.shape, dtype=dtypes[name], device="meta"))
        for name, weight in found.weights.items()
    }

    path = folder / "model.safetensors"
    write_tensors(path, layouts, lambda name: raw_bytes(found.value(name, dtypes[name])), progress)


def _value(weight: Weight, tensors: Tensors, dtype: torch.dtype) -> Tensor:
    """Return a parameter of ours, in the type in which it is stored."""
    if not weight.pieces:
        return weight.values(weight.shape).to(dtype)
    parts = []
    for piece in weight.pieces:
        tensor = _read(piece.name, tensors)
        changed = tensor if piece.change is None else piece.change(tensor)
        parts.append(changed.to(dtype))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _read(name: str, tensors: Tensors) -> Tensor:
    """Return a tensor of the source; refuse a type that holds no weights, and values not finite."""
    tensors.dtype(name)
    tensor = tensors.read(name)
    if not is_finite(tensor):
        raise CheckpointError(f"{tensors.place(name)}: {name} has values that are not finite")
    return tensor


def _dtype(weight: Weight, tensors: Tensors) -> torch.dtype:
    """Return the source's type if all pieces have it and it holds their values; or float32."""
    types = [tensors.dtype(piece.name) for piece in weight.pieces]  # refuses those not to be read
    exact = all(piece.exact for piece in weight.pieces)
    return types[0] if exact and len(set(types)) == 1 else torch.float32


def _family(source: Source) -> Family:
    name = source.settings.get("model_type")
    own_code = source.settings.get("auto_map")
    if isinstance(name, str) and name in REFUSED:
        raise CheckpointError(f"{source.where}: cannot import the family {name}: {REFUSED[name]}")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        code = ", and its own code (auto_map) is never run" if own_code else ""
        raise CheckpointError(
            f"{source.where}: the model_type {name!r:.80} is not a known family{code}; "
            f"`edgegpt import --list` shows the known ones"
        )
    if own_code and not family.began_as_code:
        raise CheckpointError(
            f"{source.where}: auto_map names code of its own, which is never run, and which may "
            f"compute something else than the family {name}"
        )
    return family


def _found(
    weights: dict[str, Weight], layout: Layout | PairLayout, tensors: Tensors
) -> dict[str, Weight]:
    """Return the weights with the names that the tensors have; the prefix may be left out."""
    token = f"{layout.token}.weight"
    if token in tensors.shapes or token.removeprefix(layout.prefix) not in tensors.shapes:
        return weights

    def bare(piece: Piece) -> Piece:
        return replace(piece, name=piece.name.removeprefix(layout.prefix))

    return {
        name: replace(weight, pieces=tuple(map(bare, weight.pieces)))
        for name, weight in weights.items()
    }


def _pieces(weights: dict[str, Weight]) -> Iterator[Piece]:
    for weight in weights.values():
        yield from weight.pieces


def _check_shapes(weights: dict[str, Weight], source: Source) -> None:
    tensors = source.tensors
    missing = [piece.name for piece in _pieces(weights) if piece.name not in tensors.shapes]
    if missing:
        raise CheckpointError(
            f"{source.where}: the checkpoint lacks {listed(missing)}, which its settings call for"
        )
    for piece in _pieces(weights):
        shape = tensors.shapes[piece.name]
        if shape != piece.shape:
            raise CheckpointError(
                f"{tensors.place(piece.name)}: {piece.name} has the shape {list(shape)}; by the "
                f"settings it should have {list(piece.shape)}"
            )


def _check_left_over(weights: dict[str, Weight], planned: Import, tensors: Tensors) -> None:
    layout = planned.layout
    # Copies are compared with what they repeat when the weights are read.
    used = {piece.name for piece in _pieces(weights)} | set(planned.copies)
    left = [name for name in tensors.shapes if name not in used and not layout.ignores(name)]
    if left:
        raise CheckpointError(
            f"{tensors.place(left[0])}: nothing in the model takes {listed(sorted(left))}; the "
            f"checkpoint is of another model than its settings say"
        )


def _check_copies(found: Import) -> None:
    """Refuse a stored copy of an embedding that differs from it, such as a tied head."""
    tensors = found.source.tensors
    for name, own in found.copies.items():
        (token,) = found.weights[own].pieces
        if name in tensors.shapes and not torch.equal(
            _read(name, tensors), _read(token.name, tensors)
        ):
            raise CheckpointError(
                f"{tensors.place(name)}: {name} differs from {token.name}, although the settings "
                f"say that they are one (tie_word_embeddings)"
            )
