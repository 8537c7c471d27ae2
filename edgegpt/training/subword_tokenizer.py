"""Learn a subword tokenizer from texts, and encode texts by it.

It is byte-pair encoding (Sennrich et al. 2016), trained by the `tokenizers` library. Texts are cut
into words, each with the space before it, signs and single digits; tokens never cross these cuts. A
number is therefore spelled, whatever its length. The tokens of a text, one after another, are
exactly the text.

Merging goes on until the wanted number of ids is reached, or nothing is left to merge. In the
second case the texts have few words, such as those of numbers, and the alphabet is their
characters: any other is an error that names it (`edgegpt.runtime.text.tokenizer`). In the first
case texts can say anything, and the alphabet is the 256 bytes, so that nothing is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import CheckpointError, DataError, InvalidInputError
from ..user_files import json_text

__all__ = [
    "END",
    "PAD",
    "START",
    "Ragged",
    "build_subword_tokenizer",
    "encode_texts",
    "read_tokenizer",
]

PAD, START, END = 0, 1, 2  # ids
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]  # their names, in the order of the ids
WORDS = r" ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
SMALLEST_WITH_BYTES = 2_000  # ids; in a smaller vocabulary 256 bytes would leave too few for words
RAREST = 2  # occurrences of a pair of tokens that becomes one; what occurs once teaches nothing
AT_ONCE = 10_000  # texts to encode in one call, whose answer is large


@dataclass(frozen=True)
class Ragged:
    """Ids of many texts, one after another.

    Attributes:
        ids: int32 [total].
        ends: int64 [texts + 1]; text i is `ids[ends[i] : ends[i + 1]]`.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one text, int32 [length]."""
        return self.ids[self.ends[index] : self.ends[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids of each text, int64 [texts]."""
        return np.diff(self.ends)

    def only(self, chosen: NDArray[np.bool_]) -> "Ragged":
        """Return the texts for which `chosen`, bool [texts], is true."""
        lengths = self.lengths
        ids = self.ids[np.repeat(chosen, lengths)]
        return Ragged(ids, np.cumsum([0, *lengths[chosen]], dtype=np.int64))

    def followed_by(self, end: int) -> "Ragged":
        """Return the texts with the id `end` after each."""
        ids = np.insert(self.ids, self.ends[1:], end)
        return Ragged(ids, self.ends + np.arange(len(self.ends)))

    def padded(
        self, numbers: NDArray[np.int64], fill: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids of texts, int64 [B, longest], `fill` after the end, and lengths [B]."""
        lengths = self.lengths[numbers]
        places = np.arange(lengths.max())
        inside = places < lengths[:, None]  # (B, longest)
        padded = np.full(inside.shape, fill, dtype=np.int64)
        padded[inside] = self.ids[(self.ends[numbers, None] + places)[inside]]
        return padded, lengths


def build_subword_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Return a tokenizer of at most `vocab_size` ids, of which the first are `SPECIAL_TOKENS`.

    Its choice depends only on the arguments. One for both sides of pairs is built from the texts of
    both.

    Raises:
        InvalidInputError: if the characters of the texts alone are more than `vocab_size`.
    """
    tokenizer = _train(texts, vocab_size, by_bytes=False)
    size: int = tokenizer.get_vocab_size()
    if size >= vocab_size >= SMALLEST_WITH_BYTES:
        return _train(texts, vocab_size, by_bytes=True)
    if size > vocab_size:
        raise InvalidInputError(
            f"the vocabulary has {vocab_size} ids, but the pairs have "
            f"{size - len(SPECIAL_TOKENS)} different characters, and {len(SPECIAL_TOKENS)} more "
            f"are for start, end and padding: it needs at least {size}"
        )
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that `build_subword_tokenizer` made.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    text = json_text(path)
    try:
        tokenizer = Tokenizer.from_str(text or "")
    except Exception as error:  # the library raises no other type
        raise CheckpointError(f"{path} is no tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Ragged:
    """Encode texts, without start and end; a special token's name in a text is text like any other.

    Raises:
        DataError: if a text has a character that the tokenizer does not know.
    """
    parts = [np.zeros(0, dtype=np.int32)]
    lengths = [0]
    for first in range(0, len(texts), AT_ONCE):
        chunk = list(texts[first : first + AT_ONCE])
        ids = [found.ids for found in tokenizer.encode_batch_fast(chunk, add_special_tokens=False)]
        if tokenizer.decode_batch(ids, skip_special_tokens=False) != chunk:
            _refuse_unknown(tokenizer, chunk)
        parts.append(np.array([number for row in ids for number in row], dtype=np.int32))
        lengths += [len(row) for row in ids]
    return Ragged(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64))


def _train(texts: Sequence[str], vocab_size: int, by_bytes: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    words: pre_tokenizers.PreTokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    alphabet: list[str] = []
    if by_bytes:
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        words = pre_tokenizers.Sequence([words, as_bytes])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel() if by_bytes else decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=RAREST,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # as text; not saved in tokenizer.json
    return tokenizer


def _refuse_unknown(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    for text in texts:
        for character in text:
            if not tokenizer.encode(character, add_special_tokens=False).ids:
                raise DataError(
                    f"the character {character!r} (U+{ord(character):04X}) in {text[:40]!r} is "
                    f"not in the vocabulary, which has the characters of the pairs for training"
                )
