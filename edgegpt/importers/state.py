"""State dicts in files of `torch.save`: found in their wrappings, and the sizes that they tell."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .pickles import state_dict

__all__ = ["axes", "numbers", "state_of"]

# Where trainers commonly put the state dict inside a file.
WRAPPERS = ("model_state_dict", "state_dict", "model", "ema")
# What wrappers put before all names: torch.compile, DistributedDataParallel, Lightning.
PREFIXES = ("_orig_mod.", "module.", "model.")


def state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a file, whatever is around it and its names.

    Raises:
        CheckpointError: if there is none.
    """
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    state = state_dict(content, path)
    while state and (prefix := _common(state)):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


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


def _common(state: dict[str, Tensor]) -> str | None:
    """Return the prefix of a wrapper that all names have."""
    return next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
