"""Read a SentencePiece model file: tokenizer.model, spiece.model.

The file is a protobuf message, defined by sentencepiece_model.proto of the `sentencepiece` library.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from edgegpt.runtime.packages import pip_install

from ...errors import CheckpointError
from .pieces import Kind, Piece, PieceModel

__all__ = ["SentencePiece", "read_sentence_piece"]

LARGEST = 64 * 2**20  # bytes; Gemma's has 4.2 million, and most are below a million
ALGORITHMS: dict[int, Literal["bpe", "unigram"]] = {1: "unigram", 2: "bpe"}
REFUSED = {3: "word", 4: "char"}


@dataclass(frozen=True)
class SentencePiece:
    """The pieces of a file, and which of them begins a prompt and ends a text, if any does."""

    model: PieceModel
    bos: str | None
    eos: str | None


def read_sentence_piece(path: Path, *, every_part: bool) -> SentencePiece | None:
    """Read the file at `path`; None if it holds something else, such as a tiktoken vocabulary.

    Args:
        path: a file written by SentencePiece.
        every_part: whether the text after each control piece gets a space in front, as the text's
            beginning does, if the model has that at all. It does anyway in a model that normalises
            texts, for there `tokenizers` loses sight of the beginning.

    Raises:
        CheckpointError: for a model of a kind that is not supported, by name.
    """
    message = _parse(path)
    if message is None:
        return None
    trainer, normalizer = message.trainer_spec, message.normalizer_spec
    if trainer.model_type not in ALGORITHMS:
        kind = REFUSED.get(trainer.model_type, str(trainer.model_type))
        raise CheckpointError(
            f"{path} is a SentencePiece model of the kind {kind}; bpe and unigram are supported"
        )
    for refused, name in (
        (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix"),
        (not normalizer.escape_whitespaces, "escape_whitespaces = false"),
    ):
        if refused:
            raise CheckpointError(f"{path} is a SentencePiece model with {name}, not supported")
    plain = not normalizer.remove_extra_whitespaces and not normalizer.precompiled_charsmap
    prefix: Literal["first", "every"] = "first" if plain and not every_part else "every"
    model = PieceModel(
        pieces=[Piece(piece.piece, piece.score, Kind(piece.type)) for piece in message.pieces],
        algorithm=ALGORITHMS[trainer.model_type],
        prefix=prefix if normalizer.add_dummy_prefix else "none",
        remove_spaces=normalizer.remove_extra_whitespaces,
        charsmap=normalizer.precompiled_charsmap,
    )
    bos, eos = (
        model.pieces[number].text if 0 <= number < len(model.pieces) else None
        for number in (trainer.bos_id, trainer.eos_id)
    )
    return SentencePiece(model, bos, eos)


def _parse(path: Path) -> Any:
    """Return the message, or None if the file holds none with pieces."""
    try:
        library = import_module("sentencepiece.sentencepiece_model_pb2")
        errors = import_module("google.protobuf.message")
    except ImportError as error:
        raise CheckpointError(
            f"{path} is read by the packages sentencepiece and protobuf ({error}): "
            f"{pip_install('export')}"
        ) from error
    size = path.stat().st_size
    if size > LARGEST:
        raise CheckpointError(f"{path} has {size:,} bytes; at most {LARGEST:,} are read")
    message = library.ModelProto()
    try:
        message.ParseFromString(path.read_bytes())
    except errors.DecodeError:
        return None
    return message if len(message.pieces) > 0 else None
