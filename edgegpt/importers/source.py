"""A checkpoint from elsewhere, whatever its kind: settings, tensors, and texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tensors import Tensors

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """What an importer needs to know about a checkpoint.

    Attributes:
        name: what it is called, for messages and for the manifest.
        settings: config.json, or the same settings under the same names.
        where: the file of the settings, for messages.
        tensors: the weights.
        folder: the folder with tokenizer, template and licence; None: there is none.
        fields: the metadata of a GGUF file, which has tokenizer and template; None: of others.
        tokenizer_json: the tokenizer, if the file of the weights has one; None: it has none.
        notes: sentences for the user about what was found on the way.
    """

    name: str
    settings: dict[str, Any]
    where: str
    tensors: Tensors
    folder: Path | None = None
    fields: Mapping[str, Any] | None = None
    tokenizer_json: str | None = None
    notes: tuple[str, ...] = ()
