"""Turn text into ids and back, without losing a character silently.

The `tokenizers` library drops a character that the vocabulary lacks, or raises without naming it.
Here such a character raises an error that tells which character it is, and where.
"""

from collections.abc import Sequence
from functools import cached_property

from tokenizers import Tokenizer as Backend

from ..errors import BundleError, InvalidInputError

__all__ = ["Tokenizer", "library_failed"]

LONGEST = 40  # characters of an unknown word in a message


class Tokenizer:
    """A tokenizer in Hugging Face's `tokenizers` JSON format.

    Attributes:
        special_ids: ids of special tokens, such as "</s>". They tell the model about a text, and
            are no part of what it writes.
        rows: how many ids the model has; None: not known.
    """

    def __init__(self, text: str | bytes, rows: int | None = None) -> None:
        """Read the JSON text of a tokenizer.json for a model that has `rows` ids.

        Raises:
            BundleError: if it is damaged, or has more tokens than the model has ids. Added ones do
                not count: some models never learned theirs.
        """
        try:
            text = text.decode("utf-8") if isinstance(text, bytes) else text
            self.backend: Backend = Backend.from_str(text)
        except BaseException as error:
            if not library_failed(error):
                raise
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error
        unknown = getattr(self.backend.model, "unk_token", None)
        self.unknown_token: str | None = unknown
        self.unknown_id = None if unknown is None else self.backend.token_to_id(unknown)
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self._added = {token.content: number for number, token in added.items()}
        self.rows = rows
        ordinary = int(self.backend.get_vocab_size(with_added_tokens=False))
        if rows is not None and ordinary > rows:
            raise BundleError(
                f"the tokenizer has {ordinary} ids, the model only {rows}: it belongs to another "
                f"model"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size())

    def reach(self, rows: int) -> int:
        """Return how many of the model's ids there are up to the last one that has a text.

        There may be more: embeddings are padded to a round number of rows.
        """
        named = (number for number in reversed(range(rows)) if self.backend.id_to_token(number))
        return next(named, -1) + 1

    @property
    def special_names(self) -> list[str]:
        """The texts of the special tokens."""
        return [str(self.backend.id_to_token(number)) for number in sorted(self.special_ids)]

    def added_id(self, name: str) -> int | None:
        """Return the id of a token that was added to the vocabulary, special or not."""
        return self._added.get(name)

    @cached_property
    def longest(self) -> int:
        """How many characters the longest token has, 1 or more."""
        return max(1, *map(len, self.backend.get_vocab()))

    def encode(self, text: str, quoted: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Return the ids of `text`.

        Args:
            text: what to encode; names of special tokens become their ids.
            quoted: from where to where they do not. The text is cut there.

        Raises:
            InvalidInputError: for a part of the text that has no id, or one that the model lacks.
        """
        if not quoted:
            return self._encode(text, self.backend)
        ids, done = [], 0
        for start, end in quoted:
            if done < start:
                ids += self._encode(text[done:start], self.backend)
            ids += self._encode(text[start:end], self._without_special)
            done = end
        return ids + (self._encode(text[done:], self.backend) if done < len(text) else [])

    @cached_property
    def _without_special(self) -> Backend:
        """The tokenizer that takes names of special tokens for ordinary text."""
        plain: Backend = Backend.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    def _encode(self, text: str, backend: Backend) -> list[int]:
        try:
            found = backend.encode(text, add_special_tokens=False)
        except BaseException as error:  # such as a WordLevel model without an unknown token
            if not library_failed(error):
                raise
            self._refuse_dropped(text, error)
            raise InvalidInputError(f"the text cannot be tokenized: {error}") from error
        ids: list[int] = found.ids
        if self.unknown_id in ids:
            self._refuse_unknown(text, ids, found.offsets)
        # A tokenizer may change text on purpose (case, Unicode forms), so that ids which decode to
        # another text are an error only if a character has no id of its own.
        elif self.unknown_id is None and self.decode(ids) != text:
            self._refuse_dropped(text)
        beyond = [number for number in ids if self.rows is not None and number >= self.rows]
        if beyond:
            raise InvalidInputError(
                f"the token {self.backend.id_to_token(beyond[0])!r:.{LONGEST}} has the id "
                f"{beyond[0]}, which the model never learned: it has only {self.rows} ids"
            )
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 show as U+FFFD.

        Ids beyond the vocabulary have no text; a negative one raises `InvalidInputError`.
        """
        try:
            text: str = self.backend.decode(ids, skip_special_tokens=False)
        except OverflowError:
            wrong = next(number for number in ids if not 0 <= number < 2**32)
            raise InvalidInputError(f"{wrong} is no token id") from None
        return text

    def _refuse_unknown(self, text: str, ids: list[int], places: list[tuple[int, int]]) -> None:
        """Refuse the first part of the text that became the unknown token; `places` has all."""
        for number, (start, end) in zip(ids, places, strict=True):
            part = text[start:end].strip()
            if number == self.unknown_id and part != self.unknown_token:
                raise _unknown(part, text.find(part, start))

    def _refuse_dropped(self, text: str, reason: BaseException | None = None) -> None:
        """Refuse the first character of the text that has no id when encoded alone."""
        known: dict[str, bool] = {}
        for index, character in enumerate(text):
            if character not in known:
                known[character] = self._is_known(character)
            if not known[character]:
                raise _unknown(character, index) from reason

    def _is_known(self, character: str) -> bool:
        """Return whether a character has an id of its own, or is left out on purpose."""
        try:
            normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
            left = character if normalizer is None else normalizer.normalize_str(character)
            if not left or (splitter is not None and not splitter.pre_tokenize_str(left)):
                return True  # `is None`: some releases of the library call a sequence false
            ids: list[int] = self.backend.encode(character, add_special_tokens=False).ids
        except BaseException as error:  # as above
            if not library_failed(error):
                raise
            return False
        return bool(ids)


def library_failed(error: BaseException) -> bool:
    """Return whether `error` comes from the `tokenizers` library.

    It raises plain Exception, and PanicException, which is no Exception and has no module to
    import it from.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _unknown(part: str, position: int) -> InvalidInputError:
    what = f"the word {part[:LONGEST]!r}"
    if len(part) == 1:
        what = f"the character {part!r} (U+{ord(part):04X})"
    return InvalidInputError(
        f"{what} at position {position} of the text is not in the model's vocabulary"
    )
