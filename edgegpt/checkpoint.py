"""A checkpoint is a folder: config.json, model.safetensors, and, if known, tokenizer.json.

An imported model may bring along its chat template, its licence and its model card. `held_out.txt`
is the beginning of the validation text; export takes its golden prompts from it. An encoder-decoder
has `held_out.tsv` instead, with a source and a target in each line, and source_tokenizer.json if
its sources have a vocabulary of their own. The subfolder `train/` holds the files that only
training needs (optimizer, last weights).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegpt.runtime.bundle.bundle import (
    CARD_NAME,
    LARGEST_TEMPLATE,
    LICENSE_NAME,
    SOURCE_TOKENIZER_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
)
from edgegpt.runtime.bundle.manifest import MANIFEST_NAME
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.files import write_file

from .errors import BundleError, CheckpointError, InvalidInputError
from .freed_memory import give_back_memory
from .model import GPT, GPTConfig, Seq2Seq, Seq2SeqConfig
from .model.version_1 import from_version_1
from .model_weights import StoredWeights, load_model, skeleton
from .tensor_file import layout_of, raw_bytes, write_tensors
from .user_files import is_file, json_text, read_json, read_optional, read_text

__all__ = [
    "HELD_OUT_CHARACTERS",
    "PAIRS_NAME",
    "Checkpoint",
    "check_state",
    "exported_context",
    "is_checkpoint",
    "load_checkpoint",
    "save_config",
    "save_weights",
]

FORMAT_VERSION = 2
HELD_OUT_CHARACTERS = 8192
PAIRS_NAME = "held_out.tsv"  # the held-out text of an encoder-decoder
LONGEST_CONTEXT = 4096  # tokens; the memory for keys and values grows with it
POSITIONS = "position_embedding.weight"
LARGEST_DOCUMENT = 1 << 22  # bytes of a licence or a model card


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder. `weights` are read from the file when asked for.

    `license` and `card` are the texts of the licence and of the model card. `pairs` is the text of
    held_out.tsv.
    """

    config: Any  # a GPTConfig or a Seq2SeqConfig
    weights: Mapping[str, Tensor]
    tokenizer_json: str | None
    held_out: str | None
    usage: Usage | None = None
    source: Source | None = None
    chat_template: str | None = None
    license: str | None = None
    card: str | None = None
    source_tokenizer_json: str | None = None
    pairs: str | None = None

    @cached_property
    def model(self) -> Any:  # a GPT or a Seq2Seq, as the config is
        """The model with all its weights, in float32 and in eval mode."""
        return load_model(self.config, self.weights)

    def limited(self, context: int) -> "Checkpoint":
        """Return the same model for texts of at most `context` tokens.

        Raises:
            InvalidInputError: if the model does not see so many.
        """
        config = self.config.limited(context)
        rows = {"": config}
        if isinstance(config, Seq2SeqConfig):
            rows = {"encoder.": config.encoder, "decoder.": config.decoder}
        tables = {
            f"{part}{POSITIONS}": stack.block_size
            for part, stack in rows.items()
            if f"{part}{POSITIONS}" in self.weights
        }
        weights = _FirstRows(self.weights, tables) if tables else self.weights
        return replace(self, config=config, weights=weights)

    def release(self) -> None:
        """Free the model; it is read again when it is next asked for."""
        self.__dict__.pop("model", None)
        give_back_memory()


class _FirstRows(Mapping[str, Tensor]):
    """The tensors of another mapping, but only the first rows of some of them."""

    def __init__(self, tensors: Mapping[str, Tensor], rows: dict[str, int]) -> None:
        self._tensors, self._rows = tensors, rows

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name][: self._rows.get(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def save_config(
    folder: Path,
    config: GPTConfig | Seq2SeqConfig,
    usage: Usage | None = None,
    source: Source | None = None,
) -> None:
    """Write config.json."""
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "model": config.to_dict()}
    for key, known in (("usage", usage), ("source", source)):
        if known is not None:
            document[key] = asdict(known)
    write_file(folder / "config.json", (json.dumps(document, indent=2) + "\n").encode())


def save_weights(folder: Path, model: GPT | Seq2Seq, dtype: torch.dtype) -> None:
    """Write model.safetensors with the weights as `dtype`; a tied head is not repeated."""
    tensors = dict(model.named_parameters())
    layouts = {name: layout_of(tensor.to("meta", dtype)) for name, tensor in tensors.items()}
    path = folder / "model.safetensors"
    write_tensors(path, layouts, lambda name: raw_bytes(tensors[name].to(dtype)))


def is_checkpoint(folder: Path) -> bool:
    """Return whether `folder` has a config.json of edgegpt; nothing else is checked."""
    try:
        document = read_optional(folder / "config.json")
    except CheckpointError:
        return False
    return {"format_version", "model"} <= set(document)


def exported_context(config: GPTConfig | Seq2SeqConfig) -> int:
    """Return how many tokens an exported model sees, unless more are asked for."""
    return min(config.block_size, LONGEST_CONTEXT)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; every defect raises a `CheckpointError` that names it."""
    config, usage, source = _load_config(folder)
    return Checkpoint(
        config=config,
        weights=_open_weights(folder, config),
        tokenizer_json=json_text(folder / TOKENIZER_NAME),
        held_out=read_text(folder / "held_out.txt"),
        usage=usage,
        source=source,
        chat_template=read_text(folder / TEMPLATE_NAME, LARGEST_TEMPLATE),
        license=read_text(folder / LICENSE_NAME, LARGEST_DOCUMENT),
        card=read_text(folder / CARD_NAME, LARGEST_DOCUMENT),
        source_tokenizer_json=json_text(folder / SOURCE_TOKENIZER_NAME),
        pairs=read_text(folder / PAIRS_NAME),
    )


def _load_config(
    folder: Path,
) -> tuple[GPTConfig | Seq2SeqConfig, Usage | None, Source | None]:
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder at {folder}")
    if (folder / MANIFEST_NAME).is_file():
        raise CheckpointError(f"{folder} is a bundle, not a checkpoint; name what it was made of")
    path = folder / "config.json"
    document = read_json(path)
    if not isinstance(document.get("model"), dict):
        raise CheckpointError(f"{path} has no table 'model'; it is not a checkpoint of edgegpt")
    version = document.get("format_version")
    if version not in (1, FORMAT_VERSION) or version is True:
        raise CheckpointError(
            f"{path} has format version {version!r}; this edgegpt reads 1 and {FORMAT_VERSION}"
        )
    model = document["model"]
    config: GPTConfig | Seq2SeqConfig
    try:
        if "encoder" in model:
            config = Seq2SeqConfig.from_dict(model)
            target, sources = config.decoder.vocab_size, config.encoder.vocab_size
        else:
            config = GPTConfig.from_dict(from_version_1(model) if version == 1 else model)
            target = sources = config.vocab_size
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    usage, source = document.get("usage"), document.get("source")
    try:
        return (
            config,
            None if usage is None else Usage.of(usage, f"{path}: usage", target, sources),
            None if source is None else Source.of(source, f"{path}: source"),
        )
    except BundleError as error:  # the two have the form that a bundle's manifest gives them
        raise CheckpointError(str(error)) from error


def _open_weights(folder: Path, config: GPTConfig | Seq2SeqConfig) -> StoredWeights:
    path = folder / "model.safetensors"
    if not is_file(path):
        raise CheckpointError(f"{folder} has no model.safetensors: nothing was trained in it yet")
    weights, model = StoredWeights(path), skeleton(config)
    found = {name: torch.empty(shape, device="meta") for name, shape in weights.shapes.items()}
    for name, other in model.tied_names().items():
        if other not in found:
            continue
        if name in found and not torch.equal(weights[name], weights[other]):
            raise CheckpointError(
                f"{path}: {name} differs from {other}, although config.json says that they are one"
            )
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
