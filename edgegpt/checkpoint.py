"""A checkpoint is a folder: config.json, model.safetensors, and, if known, tokenizer.json.

An imported model may bring along its chat template, its licence and its model card. `held_out.txt`
is the beginning of the validation text; export takes its golden prompts from it. The subfolder
`train/` holds the files that only training needs (optimizer, last weights).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
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
    """The content of a checkpoint folder. The model is in float32 and in eval mode.

    `license` and `card` are the texts of the licence and of the model card.
    """

    model: GPT
    tokenizer_json: str | None
    held_out: str | None
    usage: Usage | None = None
    source: Source | None = None
    chat_template: str | None = None
    license: str | None = None
    card: str | None = None


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
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in model.tied_names()
    }
    write_file(folder / "model.safetensors", save(tensors))


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
    model = GPT(config)
    _load_weights(folder, model)
    return Checkpoint(
        model=model.float().eval(),
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


def _load_weights(folder: Path, model: GPT) -> None:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors: nothing was trained in it yet")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for name, other in model.tied_names().items():
        if other in tensors:
            tensors[name] = tensors[other]
    check_state(tensors, model.state_dict(), path)
    model.load_state_dict(tensors)


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
