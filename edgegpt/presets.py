"""Presets: the settings of a model and of its training, as TOML files in `models/`."""

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .errors import InvalidInputError

__all__ = ["DEFAULT_PRESETS", "TASKS", "Preset", "load_preset", "preset_names"]

TASKS = ("text", "seq2seq")
DEFAULT_PRESETS = {"text": "shakespeare-char", "seq2seq": "transformer-tiny"}


@dataclass(frozen=True)
class Preset:
    """What a preset trains, see `TASKS`, and its settings of the model and of the training."""

    task: str
    model: dict[str, Any]
    train: dict[str, Any]


def preset_names() -> list[str]:
    """Return the names of all presets."""
    folder = resources.files("edgegpt.models")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_preset(name: str) -> Preset:
    """Return the preset `name`."""
    if name not in preset_names():
        raise InvalidInputError(f"no preset {name!r}; there are: {', '.join(preset_names())}")
    text = resources.files("edgegpt.models").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return Preset(tables.get("task", TASKS[0]), tables["model"], tables["train"])
