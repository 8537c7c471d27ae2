"""Reads GGUF files, llama.cpp's format, as the Hugging Face checkpoints that they were made from.

The metadata becomes the settings of config.json, and the tensors get back their names and layouts,
so that the family's own importer takes both. Quantised values are dequantised to float32.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor

from ...errors import CheckpointError
from ..names import listed
from ..run import asked_for
from ..source import Source
from .architectures import Architecture
from .header import MAGIC, Header, Stored, read_header
from .settings import FACTORS, architecture_of, settings_of
from .tensors import Entry, GgufTensors

__all__ = ["MAGIC", "open_gguf"]

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def open_gguf(path: Path) -> Source:
    """Return the checkpoint in a GGUF file, or in the parts of a split one.

    Raises:
        CheckpointError: if the file is damaged or lacks a tensor, or if it is of an architecture,
            or has settings or types of tensors, that cannot be imported.
    """
    header = _whole(read_header(path))
    own = architecture_of(header)
    settings = settings_of(header)
    source = Source(path.stem, settings, str(path), GgufTensors({}), None, header.fields)
    names = _names(own, settings["num_hidden_layers"], asked_for(source))
    lacking = [name for name in names if name not in header.tensors]
    if lacking:
        raise CheckpointError(f"{path} lacks {listed(lacking)}, which its settings call for")
    heads = (settings["num_attention_heads"], settings["num_key_value_heads"])
    entries = {
        names.get(name, name): _entry(own, name, stored, *heads)
        for name, stored in header.tensors.items()
        if name not in FACTORS
    }
    return replace(source, tensors=GgufTensors(entries))


def _names(own: Architecture, layers: int, wanted: list[str]) -> dict[str, str]:
    """Return the names of Hugging Face, of those wanted, by the names of GGUF."""
    number = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == own.name)
    known = get_tensor_name_map(MODEL_ARCH(number), layers)
    found = {name: known.get_name(name, (".weight", ".bias")) for name in wanted}
    return {theirs: name for name, theirs in found.items() if theirs is not None}


def _entry(own: Architecture, name: str, stored: Stored, heads: int, kv_heads: int) -> Entry:
    if own.transposed is not None and re.fullmatch(own.transposed, name):
        return Entry(stored, name, stored.shape[::-1], torch.t)
    undo: Callable[[Tensor], Tensor] | None = None
    for pattern, change in own.undo.items():
        if re.fullmatch(pattern, name):
            undo = lambda w, change=change: change(w, heads, kv_heads)  # noqa: E731
    return Entry(stored, name, stored.shape, undo)


def _whole(first: Header) -> Header:
    """Return the header with the tensors of all parts, if the model was split."""
    count = first.fields.get("split.count", 0)
    if count in (0, 1):
        return first
    match = PART.fullmatch(first.path.name)
    if match is None or int(match[3]) != count or int(match[2]) != 1:
        raise CheckpointError(
            f"{first.path} is one of {count!r:.80} parts; import the first, whose name has to end "
            f"in -00001-of-{count!r:0>5.5}.gguf, with the others beside it"
        )
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        part = read_header(first.path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf"))
        if part.fields.get("split.no") != number - 1 or part.fields.get("split.count") != count:
            raise CheckpointError(f"{part.path} is not part {number} of {first.path}")
        if repeated := tensors.keys() & part.tensors.keys():
            raise CheckpointError(f"{part.path} repeats {min(repeated)} of another part")
        tensors |= part.tensors
    return replace(first, tensors=tensors)
