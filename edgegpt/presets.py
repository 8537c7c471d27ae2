"""Presets: the settings of a model and of its training, as TOML files in `models/`."""

import tomllib
from importlib import resources
from typing import Any

from .errors import InvalidInputError

__all__ = ["DEFAULT_PRESET", "load_preset", "preset_names"]

DEFAULT_PRESET = "shakespeare-char"


def preset_names() -> list[str]:
    """Return the names of all presets."""
    folder = resources.files("edgegpt.models")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model settings and the training settings of the preset `name`."""
    if name not in preset_names():
        raise InvalidInputError(f"no preset {name!r}; there are: {', '.join(preset_names())}")
    text = resources.files("edgegpt.models").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return tables["model"], tables["train"]
