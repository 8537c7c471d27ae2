"""Build a tokenizer that cuts texts into pieces as SentencePiece does.

SentencePiece (https://github.com/google/sentencepiece) knows no words: spaces become the character
"▁", and the whole text is cut, by merging pairs of pieces (BPE) or by the most likely cut
(unigram). The result gives the ids of the `sentencepiece` library, with these exceptions:

- The names of control pieces, such as "</s>", are found in a text, for chat templates write them.
- A text that is nothing but one user-defined piece gets no "▁" before it; with the prefix "first",
  neither does one that begins with such a piece.
- Of unigram cuts that are equally likely up to rounding, another one may be taken.
- Several accents on one letter may be put in order (`charsmap.py`).
"""

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ...errors import CheckpointError
from .backend import bpe, quote, regex_of_any
from .charsmap import charsmap_normalizer

__all__ = ["Kind", "Piece", "PieceModel", "piece_tokenizer"]

SPACE = "▁"
BYTE_NAMES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# Characters. SentencePiece's trainer makes pieces of at most 16, user-defined ones apart; the time
# to find the merges of a piece grows with the square of its length.
LONGEST_PIECE = 1024
OUT_OF_REACH = 1e6  # taken from the score of a piece that a text is never cut into


class Kind(enum.IntEnum):
    """What a piece is for; the numbers of sentencepiece_model.proto, and of GGUF files."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class PieceModel:
    """All that decides how a text is cut.

    Attributes:
        pieces: the vocabulary, by id.
        algorithm: how a text is cut.
        prefix: where a text is treated as if a space stood before it: at its beginning, also after
            every control piece ("every"), or nowhere.
        remove_spaces: whether spaces at the ends and double ones are dropped.
        charsmap: SentencePiece's table for normalising characters; empty for none.
    """

    pieces: list[Piece]
    algorithm: Literal["bpe", "unigram"]
    prefix: Literal["first", "every", "none"]
    remove_spaces: bool
    charsmap: bytes


def piece_tokenizer(model: PieceModel, added: Mapping[int, AddedToken]) -> Tokenizer:
    """Return the tokenizer of a model.

    Args:
        model: the pieces, and how they are used.
        added: further tokens that are found in a text as they are, by id. They come instead of
            pieces of the same ids.

    Raises:
        CheckpointError: for a vocabulary that makes no sense.
    """
    _check(model.pieces)
    build = _bpe if model.algorithm == "bpe" else _unigram
    tokenizer = Tokenizer(build(model.pieces, added))
    normalizer = _normalizer(model)
    tokenizer.normalizer = normalizer
    pre_tokenizer = _pre_tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = _decoder(model)
    found = dict(_own_tokens(model.pieces)) | dict(added)
    tokenizer.add_tokens([_findable(found[number], normalizer) for number in sorted(found)])
    return tokenizer


def _check(pieces: list[Piece]) -> None:
    seen: set[str] = set()
    for number, piece in enumerate(pieces):
        if piece.text in seen:
            raise CheckpointError(f"the piece {quote(piece.text)} is in the vocabulary twice")
        seen.add(piece.text)
        if piece.kind is Kind.NORMAL and len(piece.text) > LONGEST_PIECE:
            raise CheckpointError(
                f"piece {number} has {len(piece.text):,} characters; at most {LONGEST_PIECE:,} "
                f"are read"
            )
        if not math.isfinite(piece.score):
            raise CheckpointError(f"piece {number} has the score {piece.score}")
        if piece.kind is Kind.BYTE and piece.text not in BYTE_NAMES:
            raise CheckpointError(f"piece {number}, {quote(piece.text)}, does not name a byte")


def _own_tokens(pieces: list[Piece]) -> Iterator[tuple[int, AddedToken]]:
    """Yield the pieces that are found in a text as they are.

    Control pieces are looked for in the text as given, user-defined ones in the normalised text, so
    that the prefix comes before them.
    """
    for number, piece in enumerate(pieces):
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN):
            yield number, AddedToken(piece.text, special=True, normalized=False)
        elif piece.kind is Kind.USER_DEFINED:
            yield number, AddedToken(piece.text, special=False, normalized=True)


def _findable(token: AddedToken, normalizer: normalizers.Normalizer) -> AddedToken:
    """Return a token to be looked for in the text as given, if normalising changes its name.

    The library normalises the name, too: it might get a prefix, or nothing might be left of it.
    """
    if not token.normalized or normalizer.normalize_str(token.content) == token.content:
        return token
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        special=token.special,
        normalized=False,
    )


def _bpe(pieces: list[Piece], added: Mapping[int, AddedToken]) -> models.BPE:
    return bpe(
        {piece.text: number for number, piece in enumerate(pieces)},
        added,
        _merges([piece for number, piece in enumerate(pieces) if number not in added]),
        unk_token=_unknown(pieces)[1],
        fuse_unk=True,
        byte_fallback=_falls_back(pieces),
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return every pair of pieces that makes a piece, in SentencePiece's order.

    It merges the pair whose union scores best, and the leftmost of equals.
    """
    normal = {piece.text: piece.score for piece in pieces if piece.kind is Kind.NORMAL}
    ranked = [
        (-score, text, place)
        for text, score in normal.items()
        for place in range(1, len(text))
        if text[:place] in normal and text[place:] in normal
    ]
    ranked.sort(key=lambda merge: merge[0])  # stable: equal scores stay in the vocabulary's order
    return [(text[:place], text[place:]) for _, text, place in ranked]


def _unigram(pieces: list[Piece], added: Mapping[int, AddedToken]) -> models.Unigram:
    lowest = min(piece.score for piece in pieces)
    # The library cuts a text into any pieces, SentencePiece into normal ones only.
    listed = [
        (piece.text, piece.score if piece.kind is Kind.NORMAL else lowest - OUT_OF_REACH)
        for piece in pieces
    ]
    for number in sorted(added):
        entry = (added[number].content, lowest - OUT_OF_REACH)
        if number > len(listed):
            raise CheckpointError(
                f"the added token {quote(entry[0])} has the id {number}, but the ids before it end "
                f"at {len(listed) - 1}"
            )
        listed[number : number + 1] = [entry]
    return models.Unigram(listed, _unknown(pieces)[0], _falls_back(pieces))


def _unknown(pieces: list[Piece]) -> tuple[int, str]:
    for number, piece in enumerate(pieces):
        if piece.kind is Kind.UNKNOWN:
            return number, piece.text
    raise CheckpointError("the vocabulary has no piece for unknown characters")


def _falls_back(pieces: list[Piece]) -> bool:
    """Return whether a character without a piece becomes bytes."""
    return any(piece.kind is Kind.BYTE for piece in pieces)


def _normalizer(model: PieceModel) -> normalizers.Normalizer:
    owned = [piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED]
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(charsmap_normalizer(model.charsmap))
    if model.remove_spaces:
        steps += [
            normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    steps.append(normalizers.Replace(" ", SPACE))
    if model.prefix == "every":
        steps.append(normalizers.Prepend(SPACE))
        if owned:
            # The library normalises the names of user-defined pieces, too, before it looks for
            # them; a name must not get the prefix.
            names = regex_of_any(owned)
            steps.append(normalizers.Replace(Regex(rf"\A{SPACE}(?=(?:{names})\z)"), ""))
    return normalizers.Sequence(steps)


def _pre_tokenizer(model: PieceModel) -> pre_tokenizers.PreTokenizer | None:
    """Return what puts the prefix before the first part of a text.

    `Metaspace` leaves it out if the text begins with its own character already, which SentencePiece
    does not. So the first one writes a space, which the text no longer has, and the second one "▁".
    """
    if model.prefix != "first":
        return None
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False),
        ]
    )


def _decoder(model: PieceModel) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if _falls_back(model.pieces):
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.prefix != "none" or model.remove_spaces:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
