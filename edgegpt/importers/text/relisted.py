"""SentencePiece models whose pieces have other ids than their places in the file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import CheckpointError
from ...user_files import read_json
from .backend import LARGEST_ID, listed, quote
from .pieces import Kind, Piece, PieceModel

__all__ = ["behind_own", "relisted", "vocabulary_of"]

# The ids that fairseq gave its own tokens; the pieces come behind, without the file's first three.
OWN = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
OFFSET = 1
UNKNOWN = "<unk>"


def vocabulary_of(path: Path) -> dict[str, int]:
    """Return the ids in a file such as vocab.json, a table from pieces to ids.

    Raises:
        CheckpointError: if an id is no small whole number, or there twice.
    """
    ids = read_json(path)
    for text, number in ids.items():
        if type(number) is not int or not 0 <= number <= LARGEST_ID:
            raise CheckpointError(f"{path}: the id of {quote(text)} is {number!r:.40}")
    if len(set(ids.values())) < len(ids):
        raise CheckpointError(f"{path} gives two tokens the same id")
    if UNKNOWN not in ids:
        raise CheckpointError(f"{path} has no {UNKNOWN}, which unknown characters become")
    return ids


def behind_own(model: PieceModel) -> dict[str, int]:
    """Return the ids of fairseq's models: its own tokens first, then the pieces."""
    normal = enumerate(model.pieces)
    return OWN | {
        piece.text: number + OFFSET for number, piece in normal if piece.kind is Kind.NORMAL
    }


def relisted(
    model: PieceModel, ids: Mapping[str, int], *, read: bool
) -> tuple[PieceModel, tuple[str, ...]]:
    """Return the model with the pieces in the order of `ids`, and a note on those that have none.

    A text is cut into the model's own pieces. The other tokens of `ids` keep their names only if
    ids are `read`, too; a text that has no other pieces is then cut into them.
    """
    known = {piece.text: piece for piece in model.pieces}
    pieces = [
        # No text has the space of such a name: it becomes another character first.
        Piece(f"<no token {number}>", 0.0, Kind.UNUSED)
        for number in range(max(ids.values()) + 1)
    ]
    for text, number in ids.items():
        if text == UNKNOWN:
            pieces[number] = Piece(text, 0.0, Kind.UNKNOWN)
        elif text in known:
            pieces[number] = known[text]
        elif read:
            pieces[number] = Piece(text, 0.0, Kind.UNUSED)
    lost = [
        piece.text for piece in model.pieces if piece.kind is Kind.NORMAL and piece.text not in ids
    ]
    notes = (f"pieces without an id are not used: {listed(lost)}",) if lost else ()
    return replace(model, pieces=pieces), notes
