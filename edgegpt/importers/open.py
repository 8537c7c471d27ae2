"""Opens a checkpoint from elsewhere, whatever its kind: the content tells, not the name."""

import importlib
from dataclasses import replace
from pathlib import Path

from edgegpt.runtime.bundle.kinds import kind_of
from edgegpt.runtime.packages import pip_install

from ..errors import CheckpointError
from ..user_files import is_file
from .huggingface import open_folder
from .lesson import AttentionScale, open_lesson
from .nanogpt import open_nanogpt
from .pair_state import (
    is_lesson,
    is_module,
    open_pair_lesson,
    open_pair_module,
    read_shape,
)
from .pickles import read_pickle
from .source import Source
from .state import state_of
from .text.characters import tokenizer_of

__all__ = ["open_pickle", "open_source"]

GGUF = b"GGUF"
PICKLES = (b"PK", b"\x80")  # a zip archive; a pickle, as PyTorch wrote before 1.6


def open_source(
    path: Path,
    n_head: int | None = None,
    attention_scale: AttentionScale | None = None,
    shape: Path | None = None,
) -> Source:
    """Return the checkpoint at `path`; values of weights are read later, one by one.

    Args:
        path: a Hugging Face folder, a GGUF file, or a PyTorch file of nanoGPT, a lesson,
            or an `nn.Transformer`.
        n_head: see `open_nanogpt`.
        attention_scale: see `open_lesson`.
        shape: a TOML file with what an encoder-decoder's file does not say; see `pair_state`.

    Raises:
        CheckpointError: if there is no checkpoint, or if it is damaged or cannot be imported.
    """
    try:
        if path.is_dir():
            return open_folder(path)
        if not is_file(path):
            raise CheckpointError(f"no file at {path}")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(GGUF):
        return _open_gguf(path)
    if head.startswith(PICKLES):
        return open_pickle(path, n_head, attention_scale, shape)
    if not head:
        raise CheckpointError(f"{path} is empty")
    if head[8:9] == b"{":
        raise CheckpointError(f"{path} is a safetensors file; import its folder, with config.json")
    raise CheckpointError(
        f"{path} is {kind_of(path) or 'no checkpoint'}; import reads a Hugging Face folder, a GGUF "
        f"file, or a PyTorch file"
    )


def open_pickle(
    path: Path,
    n_head: int | None = None,
    attention_scale: AttentionScale | None = None,
    shape: Path | None = None,
) -> Source:
    """Return the checkpoint in a file that `torch.save` wrote; its keys tell its kind."""
    found = state_of(read_pickle(path), path)
    state = found.tensors
    if is_lesson(state):
        source = open_pair_lesson(state, path, n_head, read_shape(shape))
    elif is_module(state):
        source = open_pair_module(state, path, n_head, read_shape(shape))
    elif shape is not None:
        raise CheckpointError(f"{path} is no encoder-decoder, so that it has no --shape")
    elif any(name.startswith("transformer.") for name in state):
        args = found.beside.get("model_args", {})
        if not isinstance(args, dict) or not all(isinstance(name, str) for name in args):
            raise CheckpointError(f"{path}: model_args is no table of settings")
        source = open_nanogpt(state, args, path, n_head)
    elif any(name.startswith(("token_embedding_table.", "blocks.")) for name in state):
        source = open_lesson(state, path, attention_scale)
    else:
        raise CheckpointError(
            f"{path} is neither of nanoGPT (it has no transformer.wte.weight) nor of the lesson "
            f"(it has no token_embedding_table.weight), and no encoder-decoder; its first key is "
            f"{next(iter(state), None)!r:.80}"
        )
    tokenizer, notes = tokenizer_of(found.beside, str(path))
    notes = (*found.notes, *source.notes, *notes)
    return replace(source, tokenizer_json=tokenizer, notes=notes)


def _open_gguf(path: Path) -> Source:
    try:
        reader = importlib.import_module("edgegpt.importers.gguf")
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} is a GGUF file, which the library gguf reads: {pip_install('export')}"
        ) from error
    source: Source = reader.open_gguf(path)
    return source
