"""State dicts in files of `torch.save`: found in their wrappings, and the sizes that they tell."""

import re
from collections import ChainMap, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import CheckpointError
from .pickles import state_dict

__all__ = ["FoundState", "axes", "numbers", "state_of"]

# Where trainers commonly put the state dict inside a file, the best first: a file may have several.
WRAPPERS = ("model_state_dict", "state_dict", "model", "ema")
# What wrappers put before all names: DistributedDataParallel and AveragedModel, Lightning.
PREFIXES = ("module.", "model.")
# What torch.compile, FSDP and activation checkpointing put into names, wherever a module begins.
INSIDE = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A tensor that each model of a layout has once; the rest of its name is the model's place.
ANCHORS = (
    "transformer.wte.weight",  # nanoGPT
    "token_embedding_table.weight",  # the lesson
    "encoder.tok_embedding.weight",  # the lesson on encoder-decoders
)


class _Place(NamedTuple):
    """A part of a file: the names that lead to it, and the dicts around it, inmost first."""

    names: tuple[str, ...]
    content: Any
    around: tuple[dict[Any, Any], ...]


@dataclass(frozen=True)
class FoundState:
    """A state dict, as it was found in a file.

    Attributes:
        tensors: by names without what wrappers put before and into them.
        beside: what stands beside the state dict, and beside what it is in; the nearest counts.
        notes: a sentence for the user about where it was found, unless that is where all are.
    """

    tensors: dict[str, Tensor]
    beside: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def state_of(content: Any, path: Path) -> FoundState:
    """Return the state dict in the content of a file, whatever is around it and its names.

    If there are several models, it is the first; the common places of `WRAPPERS` come before all.

    Raises:
        CheckpointError: if there is none.
    """
    states = [place for place in _dicts(content) if _is_state(place.content)]
    models = [place for place in states if _prefixes(place.content)] or states
    if not models:
        raise CheckpointError(f"{path} holds no state dict (names with tensors)")
    found = models[0]
    state = _without_wrappers(state_dict(found.content, path), path)
    prefixes = _prefixes(state)
    tensors = _first(prefixes, state) if prefixes else _bare(state)
    several = [".".join(place.names) for place in models] if len(models) > 1 else prefixes[:]
    notes = []
    if len(several) > 1:
        told = ", ".join(one.removesuffix(".") or "the top" for one in several)
        notes.append(f"{path} holds several models, in {told}: the first of them is read")
    elif len(found.names) > 1 or not _is_usual(prefixes):
        told = ".".join([*found.names, *(one.removesuffix(".") for one in prefixes if one)])
        notes.append(f"{path}: the model is read from {told}")
    return FoundState(tensors, ChainMap(*found.around), tuple(notes))


def axes(state: dict[str, Tensor], name: str, path: Path) -> tuple[int, int]:
    """Return the two axes of a tensor that the sizes of a model are read from."""
    if name not in state:
        raise CheckpointError(f"{path} lacks {name}, which a model of its layout has")
    if state[name].dim() != 2:
        raise CheckpointError(f"{path}: {name} has {state[name].dim()} axes, not 2")
    return state[name].shape[0], state[name].shape[1]


def numbers(state: dict[str, Tensor], pattern: str) -> int:
    """Return how many different numbers `pattern` finds at the beginning of the names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _dicts(content: Any) -> Iterator[_Place]:
    """Yield the dicts in `content`, those with fewer names before them first."""
    queue = deque([_Place((), content, ())])
    seen: set[int] = set()  # a pickle may hold itself
    while queue:
        place = queue.popleft()
        if not isinstance(place.content, dict) or id(place.content) in seen:
            continue
        seen.add(id(place.content))
        yield place
        names = [name for name in place.content if isinstance(name, str)]
        common = [name for name in WRAPPERS if name in names]
        for name in [*common, *(name for name in names if name not in common)]:
            around = (place.content, *place.around)
            queue.append(_Place((*place.names, name), place.content[name], around))


def _is_state(content: dict[str, Any]) -> bool:
    return bool(content) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _prefixes(state: Mapping[str, Any]) -> list[str]:
    """Return what stands before the names of each model in a state dict, such as "model."."""
    found = (name.removesuffix(end) for name in state for end in ANCHORS if name.endswith(end))
    return list(dict.fromkeys(place for place in found if place == "" or place[-1] == "."))


def _first(prefixes: list[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the first of several models, and those that are of none of them.

    Outside of the models, counters such as AveragedModel's n_averaged are left out.
    """
    own = {}
    for name, tensor in state.items():
        model = max((one for one in prefixes if name.startswith(one)), key=len, default=None)
        if model == prefixes[0] or (model is None and tensor.numel() > 1):
            own[name.removeprefix(prefixes[0])] = tensor
    return own


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of an unknown layout without the wrappers' prefixes of all names."""
    while state and (prefix := _common(state)):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _without_wrappers(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put into names.

    Raises:
        CheckpointError: if two names become one.
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = INSIDE.sub("", name)
        if new in bare:
            raise CheckpointError(f"{path}: {name} is a second tensor for {new}")
        bare[new] = tensor
    return bare


def _is_usual(prefixes: list[str]) -> bool:
    """Return whether wrappers alone stand before the names."""
    return all(part in PREFIXES for one in prefixes for part in re.findall(r"[^.]*\.", one))


def _common(state: dict[str, Tensor]) -> str | None:
    """Return the prefix of a wrapper that all names have."""
    return next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
