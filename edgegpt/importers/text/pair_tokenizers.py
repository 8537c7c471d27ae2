"""Read the tokenizers of an encoder-decoder: one, or one for sources and one for targets."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from ...errors import CheckpointError
from ...user_files import is_file
from .languages import CLASSES, language_tokens
from .pieces import PieceModel, piece_tokenizer
from .relisted import behind_own, relisted, vocabulary_of
from .sentence_piece import read_sentence_piece
from .special_tokens import SpecialTokens
from .tokenizer_files import Read, read_tokenizer

__all__ = ["PairRead", "read_pair"]

SOURCE, TARGET = "source.spm", "target.spm"
VOCABULARY, OF_TARGETS = "vocab.json", "target_vocab.json"
FAIRSEQ, T5 = "sentencepiece.bpe.model", "spiece.model"
USUAL = ("<s>", "</s>", "<unk>", "<pad>")
OF_PEGASUS = ("<pad>", "</s>")
END = "</s>"
MOST_EXTRA = 1000  # of T5; the usual number is 100


@dataclass(frozen=True)
class PairRead:
    """Tokenizers as they were read; `source` is None if both are one.

    `target` may be a sentence that says why there is none.
    """

    target: Read | str
    source: Read | None = None
    notes: tuple[str, ...] = ()


def read_pair(folder: Path, special: SpecialTokens, kind: str | None) -> PairRead:
    """Return the tokenizers of `folder`; `kind` is the class of transformers."""
    if is_file(folder / SOURCE) and is_file(folder / VOCABULARY):
        return _marian(folder, special)
    if not is_file(folder / "tokenizer.json"):
        if kind == "T5Tokenizer" and is_file(folder / T5):
            return _t5(folder / T5, special)
        if kind in CLASSES and is_file(folder / FAIRSEQ):
            return _fairseq(folder, special, kind)
        if kind == "PegasusTokenizer" and is_file(folder / T5):
            return _pegasus(folder / T5, special)
    return PairRead(read_tokenizer(folder, special))


def _marian(folder: Path, special: SpecialTokens) -> PairRead:
    """Both sides cut a text by their own model; vocab.json has the ids of the pieces of both."""
    ids = vocabulary_of(folder / VOCABULARY)
    separate = is_file(folder / OF_TARGETS)
    target_ids = vocabulary_of(folder / OF_TARGETS) if separate else ids
    source, notes = _numbered(folder / SOURCE, ids, special, read=False)
    target, more = _numbered(folder / TARGET, target_ids, special)
    return PairRead(target, source, tuple(dict.fromkeys((*notes, *more))))


def _fairseq(folder: Path, special: SpecialTokens, kind: str | None) -> PairRead:
    """The ids of languages follow on those of the pieces, unless the folder says other ids."""
    path, vocabulary = folder / FAIRSEQ, folder / VOCABULARY
    if kind == "M2M100Tokenizer" and not is_file(vocabulary):
        raise CheckpointError(f"{vocabulary} is missing, which has the ids of a {kind}")
    ids = vocabulary_of(vocabulary) if is_file(vocabulary) else behind_own(_model(path))
    given = {token.content for token in special.listed.values()}
    languages = [text for text in language_tokens(kind, special.config) if text not in given]
    free = max(ids.values()) + 1
    ids = {text: free + place for place, text in enumerate(languages)} | ids
    read, notes = _numbered(path, ids, special, tuple(languages))
    return PairRead(read, None, notes)


def _t5(path: Path, special: SpecialTokens) -> PairRead:
    """The ids of T5's extra tokens, <extra_id_0> and on, go backwards from the last one."""
    model, extra = _model(path), special.config.get("extra_ids", 100)
    if type(extra) is not int or not 0 <= extra <= MOST_EXTRA:
        raise CheckpointError(f"tokenizer_config.json in {path.parent}: extra_ids is {extra!r:.40}")
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    last = len(ids) + extra - 1
    added = {
        last - place: AddedToken(
            f"<extra_id_{place}>", lstrip=True, rstrip=True, special=True, normalized=False
        )
        for place in range(extra)
    }
    names = {token.content: number for number, token in added.items()}
    tokenizer = piece_tokenizer(model, added | special.added(ids | names, USUAL))
    return PairRead(Read(tokenizer.to_str(), str(path), None, END))


def _pegasus(path: Path, special: SpecialTokens) -> PairRead:
    """The pieces come behind PEGASUS's own tokens, which are for its training.

    The file's first two pieces, padding and the end, keep their ids. Two masks follow, of sentences
    and of words, then further tokens, those without a name being <unk_2> and on.
    """
    model, offset = _model(path), special.config.get("offset", 103)
    where = f"tokenizer_config.json in {path.parent}"
    if type(offset) is not int or not len(OF_PEGASUS) <= offset <= MOST_EXTRA:
        raise CheckpointError(f"{where}: offset is {offset!r:.40}")
    sentence = special.config.get("mask_token_sent", "<mask_1>")
    if not isinstance(sentence, str):
        raise CheckpointError(f"{where}: mask_token_sent is {sentence!r:.40}")
    named = [text for text in special.more if text != sentence]
    more = [*named, *(f"<unk_{number}>" for number in range(2 + len(named), offset))]
    masks = (sentence, special.roles.get("mask_token", "<mask_2>"))
    own = (*OF_PEGASUS, *masks, *more[: offset - 2])
    ids = {text: number for number, text in enumerate(own)} | {
        piece.text: number + offset for number, piece in enumerate(model.pieces) if number >= 2
    }
    read, notes = _numbered(path, ids, special, own)
    return PairRead(read, None, notes)


def _numbered(
    path: Path,
    ids: dict[str, int],
    special: SpecialTokens,
    usual: tuple[str, ...] = (),
    *,
    read: bool = True,
) -> tuple[Read, tuple[str, ...]]:
    """Return the tokenizer of a SentencePiece model whose pieces have the given ids.

    `usual` are special tokens of its kind, besides those of all kinds.
    """
    model, notes = relisted(_model(path), ids, read=read)
    targets = (text for text in ids if text.startswith(">>") and text.endswith("<<"))
    tokenizer = piece_tokenizer(model, special.added(ids, (*USUAL, *usual, *targets)))
    return Read(tokenizer.to_str(), str(path), None, END), tuple(
        f"{path.name}: {note}" for note in notes
    )


def _model(path: Path) -> PieceModel:
    if not is_file(path):
        raise CheckpointError(f"{path} is missing")
    read = read_sentence_piece(path, every_part=True)
    if read is None:
        raise CheckpointError(f"{path} is no SentencePiece model")
    return read.model
