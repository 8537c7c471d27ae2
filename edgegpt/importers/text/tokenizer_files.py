"""Read the tokenizer of a Hugging Face folder, whatever files it is in."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import models

from ...errors import CheckpointError
from ...user_files import is_file, json_text, read_text
from .backend import quote
from .byte_level import byte_level_tokenizer
from .pieces import piece_tokenizer
from .sentence_piece import read_sentence_piece
from .special_tokens import SpecialTokens
from .splits import GPT2, GPT2_NFC, QWEN2, Split

__all__ = ["Read", "read_tokenizer"]

# How the classes of transformers that read vocab.json and merges.txt cut a text. None: the folder
# names no class.
SPLITS_OF_CLASSES: dict[str | None, Split] = {
    None: GPT2,
    "GPT2Tokenizer": GPT2,
    "BartTokenizer": GPT2,
    "CodeGenTokenizer": GPT2,
    "GPTNeoXTokenizer": GPT2_NFC,
    "Qwen2Tokenizer": QWEN2,
}
END_OF_TEXT = "<|endoftext|>"  # special in all of them, also where no file says so
# Classes that read a SentencePiece model and begin a prompt with BOS; None as above.
BEGIN_WITH_BOS = (None, "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
SENTENCE_PIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# A class whose ids are not the numbers of the pieces: fairseq moved them by one, behind its own.
MOVED_IDS = "XGLMTokenizer"
# Files of tokenizers that are not read; the model works with ids.
UNSUPPORTED = (*SENTENCE_PIECE, "tekken.json", "qwen.tiktoken", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class Read:
    """A tokenizer as it was read.

    Attributes:
        text: its JSON text.
        where: what to call it in messages.
        bos: the token for the beginning of a prompt unless the folder names another, or None.
        eos: the token that ends a text unless the folder names another, or None.
        begins: whether a prompt begins with BOS unless the folder says otherwise.
    """

    text: str
    where: str
    bos: str | None = None
    eos: str | None = None
    begins: bool = False


def read_tokenizer(folder: Path, special: SpecialTokens) -> Read | str:
    """Return the tokenizer of `folder`, or a sentence that says why there is none."""
    text = json_text(folder / "tokenizer.json")
    if text is not None:
        return Read(text, str(folder / "tokenizer.json"))
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if is_file(vocabulary) and is_file(merges):
        split = SPLITS_OF_CLASSES.get(special.class_name)
        if split is None:
            return (
                f"the tokenizer of {folder} is a {quote(special.class_name or '')}, whose way of "
                f"cutting a text is not known: the model works with token ids only"
            )
        return _byte_level(vocabulary, merges, special, split)
    for name in SENTENCE_PIECE:
        if is_file(folder / name):
            if special.class_name == MOVED_IDS:
                return (
                    f"{folder / name} numbers its pieces otherwise than a {MOVED_IDS} does, and "
                    f"there is no tokenizer.json: the model works with token ids only"
                )
            read = _sentence_piece(folder / name, special)
            if read is not None:
                return read
    present = [name for name in UNSUPPORTED if is_file(folder / name)]
    if present:
        return (
            f"{folder / present[0]} is a tokenizer of a kind that is not supported: the model "
            f"works with token ids only"
        )
    return f"{folder} has no tokenizer: the model works with token ids only"


def _byte_level(vocabulary: Path, merges: Path, special: SpecialTokens, split: Split) -> Read:
    for path in (vocabulary, merges):
        read_text(path)  # of bounded size, and UTF-8
    try:
        ids, pairs = models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{vocabulary} and merges.txt cannot be read: {error}") from error
    leading_space = special.config.get("add_prefix_space") is True
    added = special.added(ids, (END_OF_TEXT,))
    tokenizer = byte_level_tokenizer(ids, pairs, split, added, leading_space=leading_space)
    bos = None if split is QWEN2 else END_OF_TEXT
    return Read(tokenizer.to_str(), str(vocabulary), bos, END_OF_TEXT)


def _sentence_piece(path: Path, special: SpecialTokens) -> Read | None:
    """Read a SentencePiece model; None if the file holds something else."""
    # LlamaTokenizer puts a space before every part of a text between special tokens, unless its
    # `legacy` is false (https://github.com/huggingface/transformers/pull/24565).
    every_part = special.config.get("legacy") is not False
    source = read_sentence_piece(path, every_part=every_part)
    if source is None:
        return None
    ids = {piece.text: number for number, piece in enumerate(source.model.pieces)}
    tokenizer = piece_tokenizer(source.model, special.added(ids, ()))
    begins = special.class_name in BEGIN_WITH_BOS
    return Read(tokenizer.to_str(), str(path), source.bos, source.eos, begins)
