"""Encoder-decoders of PyTorch programs: a state dict of `nn.Transformer`, or of the lesson.

Neither file says how many heads there are, which ids begin and end a text, and more; `Shape` has
it. The names of the layers are fixed. Around an `nn.Transformer` the names are those of PyTorch's
tutorial on translation, or others that are common; `NAMES` has them.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..user_files import read_text
from .pickles import PickledTensors
from .source import Source
from .state import axes, numbers

__all__ = ["is_lesson", "is_module", "open_pair_lesson", "open_pair_module", "read_shape"]

# The ids of torchtext's <pad>, <sos>, <eos>, and the heads, which the lesson and PyTorch share.
USUAL = {"n_head": 8, "start": 2, "end": 3, "pad": 1}
FIRST_OF_LESSON = "encoder.layers.0.self_attention.fc_q.weight"
FIRST_OF_MODULE = "encoder.layers.0.self_attn.in_proj_weight"
# What the parts around an nn.Transformer are commonly called, and what they are called here.
NAMES = {
    "source_embedding": (
        "src_tok_emb.embedding",
        "src_tok_emb",
        "src_embedding",
        "src_embed",
        "encoder_embedding",
        "source_embedding",
    ),
    "target_embedding": (
        "tgt_tok_emb.embedding",
        "tgt_tok_emb",
        "tgt_embedding",
        "tgt_embed",
        "trg_embedding",
        "decoder_embedding",
        "target_embedding",
    ),
    "embedding": ("embedding", "token_embedding", "tok_emb.embedding", "tok_emb", "shared"),
    "head": ("generator", "fc_out", "output", "out", "linear", "head", "lm_head", "fc"),
    "positions": (
        "positional_encoding.pos_embedding",
        "positional_encoding.pe",
        "pos_encoder.pe",
        "pos_encoding.pe",
        "position_embedding.weight",
        "positional_encoding.weight",
        "pe",
    ),
}


def read_shape(path: Path | None) -> dict[str, Any]:
    """Return what the TOML file at `path` says about a model; None: nothing.

    Raises:
        CheckpointError: if there is no such file, or if it is no TOML.
    """
    if path is None:
        return {}
    text = read_text(path)
    if text is None:
        raise CheckpointError(f"no file at {path}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"{path} is not valid TOML: {error}") from error


def is_lesson(state: dict[str, Tensor]) -> bool:
    """Return whether a state dict is of the lesson's encoder-decoder."""
    return FIRST_OF_LESSON in state


def is_module(state: dict[str, Tensor]) -> bool:
    """Return whether a state dict has an `nn.Transformer`."""
    return any(name.endswith(FIRST_OF_MODULE) for name in state)


def open_pair_lesson(
    state: dict[str, Tensor], path: Path, n_head: int | None, shape: dict[str, Any]
) -> Source:
    """Return the checkpoint in a state dict of the lesson "Attention Is All You Need"."""
    rows, width = axes(state, "encoder.tok_embedding.weight", path)
    found = {
        "model_type": "lesson-seq2seq",
        "vocab_size": rows,
        "decoder_vocab_size": axes(state, "decoder.tok_embedding.weight", path)[0],
        "block_size": axes(state, "encoder.pos_embedding.weight", path)[0],
        "decoder_block_size": axes(state, "decoder.pos_embedding.weight", path)[0],
        "d_model": width,
        "encoder_layers": numbers(state, r"encoder\.layers\.(\d+)\."),
        "decoder_layers": numbers(state, r"decoder\.layers\.(\d+)\."),
        "d_ff": axes(state, "encoder.layers.0.positionwise_feedforward.fc_1.weight", path)[0],
    }
    return _source(state, path, found, n_head, shape)


def open_pair_module(
    state: dict[str, Tensor], path: Path, n_head: int | None, shape: dict[str, Any]
) -> Source:
    """Return the checkpoint in a state dict with an `nn.Transformer`."""
    own = _renamed(state, path)
    rows, width = axes(own, _table(own, "source_embedding", path), path)
    targets, _ = axes(own, _table(own, "target_embedding", path), path)
    found = {
        "model_type": "nn.Transformer",
        "vocab_size": rows,
        "decoder_vocab_size": targets,
        "d_model": width,
        "encoder_layers": numbers(own, r"encoder\.layers\.(\d+)\."),
        "decoder_layers": numbers(own, r"decoder\.layers\.(\d+)\."),
        "d_ff": axes(own, "encoder.layers.0.linear1.weight", path)[0],
    }
    if "positions.weight" in own:
        found["block_size"], _ = axes(own, "positions.weight", path)
    return _source(own, path, found, n_head, shape)


def _renamed(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors under names without the module's own, and the parts around it by ours."""
    first = next(name for name in state if name.endswith(FIRST_OF_MODULE))
    prefix = first.removesuffix(FIRST_OF_MODULE)
    ours = {theirs: name for name, several in NAMES.items() for theirs in several}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", name)
        module, _, kind = name.rpartition(".")
        if prefix and new.startswith((f"{prefix}encoder.", f"{prefix}decoder.")):
            new = new.removeprefix(prefix)
        elif ours.get(name) == "positions":  # a table [L, 1, C], [1, L, C] or [L, C]
            new, tensor = "positions.weight", tensor.flatten(0, -2)
        elif module in ours:
            new = f"{ours[module]}.{kind}"
        if new in renamed:
            raise CheckpointError(f"{path}: {name} is a second tensor for the {new}")
        renamed[new] = tensor
    return renamed


def _table(state: dict[str, Tensor], name: str, path: Path) -> str:
    """Return the name of an embedding, which both sides may share."""
    for own in (name, "embedding"):
        if f"{own}.weight" in state:
            return f"{own}.weight"
    raise CheckpointError(
        f"{path} has an nn.Transformer, but no {name.replace('_', ' ')}: it is looked for as "
        f"{', '.join(NAMES[name])}, or {', '.join(NAMES['embedding'])}"
    )


def _source(
    state: dict[str, Tensor],
    path: Path,
    found: dict[str, Any],
    n_head: int | None,
    shape: dict[str, Any],
) -> Source:
    """Return the checkpoint, with what the file does not say from `shape`, or as is usual."""
    given = shape | ({} if n_head is None else {"n_head": n_head})
    for name in found.keys() & given.keys():
        if name != "block_size" and found[name] != given[name]:
            raise CheckpointError(
                f"{path}: {name} is {found[name]} by the tensors, not {given[name]!r:.40}"
            )
    settings = USUAL | found | given
    missing = [name for name in USUAL if name not in given]
    notes = [
        f"{path} does not say what these are, and they are taken as "
        f"{', '.join(f'{name} {settings[name]}' for name in missing)}; a TOML file says otherwise "
        f"(--shape)"
    ]
    for ours, theirs in (("start", "decoder_start"), ("end", "eos"), ("pad", "pad")):
        number = settings.pop(ours)
        if type(number) is not int or number < 0:
            raise CheckpointError(f"{path}: {ours} is {number!r:.40}, which is not a token id")
        settings[f"{theirs}_token_id"] = number
    tensors = PickledTensors({path: state})
    return Source(path.stem, settings, str(path), tensors, notes=tuple(notes if missing else ()))
