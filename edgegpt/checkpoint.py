"""A checkpoint is a folder: config.json, model.safetensors, and, if known, tokenizer.json.

An imported model may bring along its chat template, its licence and its model card. `held_out.txt`
is the beginning of the validation text; export takes its golden prompts from it. The subfolder
`train/` holds the files that only training needs (optimizer, last weights).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegpt.runtime.bundle.bundle import (
    CARD_NAME,
    LARGEST_TEMPLATE,
    LICENSE_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
)
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.files import write_file

from .errors import BundleError, CheckpointError, InvalidInputError
from .model import GPT, GPTConfig
from .model.version_1 import from_version_1
from .model_weights import StoredWeights, load_model, skeleton
from .tensor_file import layout_of, raw_bytes, write_tensors

__all__ = [
    "Checkpoint",
    "check_state",
    "is_checkpoint",
    "load_checkpoint",
    "save_config",
    "save_weights",
]

FORMAT_VERSION = 2
HELD_OUT_CHARACTERS = 8192
LARGEST_DOCUMENT = 1 << 22  # bytes of a licence or a model card


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder. `weights` are read from the file when asked for.

    `license` and `card` are the texts of the licence and of the model card.
    """

    config: GPTConfig
    weights: Mapping[str, Tensor]
    tokenizer_json: str | None
    held_out: str | None
    usage: Usage | None = None
    source: Source | None = None
    chat_template: str | None = None
    license: str | None = None
    card: str | None = None

    @cached_property
    def model(self) -> GPT:
        """The model with all its weights, in float32 and in eval mode."""
        return load_model(self.config, self.weights)

    def release(self) -> None:
        """Free the model; it is read again when it is next asked for."""
        self.__dict__.pop("model", None)


def save_config(
    folder: Path, config: GPTConfig, usage: Usage | None = None, source: Source | None = None
) -> None:
    """Write config.json."""
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "model": config.to_dict()}
    for key, known in (("usage", usage), ("source", source)):
        if known is not None:
            document[key] = asdict(known)
    write_file(folder / "config.json", (json.dumps(document, indent=2) + "\n").encode())


def save_weights(folder: Path, model: GPT, dtype: torch.dtype) -> None:
    """Write model.safetensors with the weights as `dtype`; a tied head is not repeated."""
    tensors = dict(model.named_parameters())
    layouts = {name: layout_of(tensor.to("meta", dtype)) for name, tensor in tensors.items()}
    path = folder / "model.safetensors"
    write_tensors(path, layouts, lambda name: raw_bytes(tensors[name].to(dtype)))


def is_checkpoint(folder: Path) -> bool:
    """Return whether `folder` has a config.json of edgegpt; nothing else is checked."""
    try:
        document = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"format_version", "model"} <= set(document)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; every defect raises a `CheckpointError` that names it."""
    config, usage, source = _load_config(folder)
    return Checkpoint(
        config=config,
        weights=_open_weights(folder, config),
        tokenizer_json=_read_text(folder / TOKENIZER_NAME, required=False),
        held_out=_read_text(folder / "held_out.txt", required=False),
        usage=usage,
        source=source,
        chat_template=_read_short(folder / TEMPLATE_NAME, LARGEST_TEMPLATE),
        license=_read_short(folder / LICENSE_NAME, LARGEST_DOCUMENT),
        card=_read_short(folder / CARD_NAME, LARGEST_DOCUMENT),
    )


def _load_config(folder: Path) -> tuple[GPTConfig, Usage | None, Source | None]:
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder at {folder}")
    path = folder / "config.json"
    try:
        document: Any = json.loads(_read_text(path, required=True) or "")
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise CheckpointError(f"{path} has no table 'model'; it is not a checkpoint of edgegpt")
    version = document.get("format_version")
    if version not in (1, FORMAT_VERSION) or version is True:
        raise CheckpointError(
            f"{path} has format version {version!r}; this edgegpt reads 1 and {FORMAT_VERSION}"
        )
    model = document["model"]
    try:
        config = GPTConfig.from_dict(from_version_1(model) if version == 1 else model)
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    usage, source = document.get("usage"), document.get("source")
    try:
        return (
            config,
            None if usage is None else Usage.of(usage, f"{path}: usage", config.vocab_size),
            None if source is None else Source.of(source, f"{path}: source"),
        )
    except BundleError as error:  # the two have the form that a bundle's manifest gives them
        raise CheckpointError(str(error)) from error


def _open_weights(folder: Path, config: GPTConfig) -> StoredWeights:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors: nothing was trained in it yet")
    weights, model = StoredWeights(path), skeleton(config)
    found = {name: torch.empty(shape, device="meta") for name, shape in weights.shapes.items()}
    for name, other in model.tied_names().items():
        if other in found:
            found[name] = found[other]
    check_state(found, model.state_dict(), path)
    return weights


def check_state(found: dict[str, Tensor], expected: dict[str, Tensor], source: Path) -> None:
    """Refuse a state dict with a missing key, an unknown key or a wrong shape; name it."""
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(missing)}")
    if surplus:
        raise CheckpointError(
            f"{source} has keys that the model does not know: {', '.join(surplus)}"
        )
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(tensor.shape)}, "
                f"the model needs {list(expected[name].shape)}"
            )


def _read_short(path: Path, largest: int) -> str | None:
    """Return the text of an optional file of at most `largest` bytes."""
    if path.is_file() and path.stat().st_size > largest:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes; at most {largest:,} can be taken along"
        )
    return _read_text(path, required=False)


def _read_text(path: Path, *, required: bool) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")  # read_text would change the line ends
    except FileNotFoundError:
        if not required:
            return None
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
