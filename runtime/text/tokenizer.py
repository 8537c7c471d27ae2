"""Turn text into ids and back, without losing a character silently.

The `tokenizers` library drops a character that the vocabulary lacks, or raises without naming it.
Here such a character raises an error that tells which character it is, and where.
"""

from tokenizers import Tokenizer as Backend

from ..errors import BundleError, InvalidInputError

__all__ = ["Tokenizer", "library_failed"]


class Tokenizer:
    """A tokenizer in Hugging Face's `tokenizers` JSON format.

    Attributes:
        special_ids: ids of special tokens, such as "</s>". They tell the model about a text, and
            are no part of what it writes.
    """

    def __init__(self, text: str | bytes) -> None:
        """Read the JSON text of a tokenizer.json."""
        try:
            text = text.decode("utf-8") if isinstance(text, bytes) else text
            self.backend: Backend = Backend.from_str(text)
        except BaseException as error:
            if not library_failed(error):
                raise
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error
        unknown = getattr(self.backend.model, "unk_token", None)
        self.unknown_id = None if unknown is None else self.backend.token_to_id(unknown)
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; an unknown character raises `InvalidInputError`."""
        try:
            ids: list[int] | None = self.backend.encode(text, add_special_tokens=False).ids
        except BaseException as error:  # such as a WordLevel model without an unknown token
            if not library_failed(error):
                raise
            reason: BaseException | None = error
            ids = None
        else:
            reason = None
        if ids is not None and self.unknown_id not in ids and self.decode(ids) == text:
            return ids
        # The ids do not decode to the text. A tokenizer may change text on purpose (case, Unicode
        # forms), so this is an error only if a character has no id of its own.
        position = self._first_unknown(text)
        if position is not None:
            raise _unknown(text, position) from reason
        if ids is None:
            raise InvalidInputError(f"the text cannot be tokenized: {reason}") from reason
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 show as U+FFFD."""
        text: str = self.backend.decode(ids, skip_special_tokens=False)
        return text

    def _first_unknown(self, text: str) -> int | None:
        """Return the index of the first character that has no id when encoded alone."""
        known: dict[str, bool] = {}
        for index, character in enumerate(text):
            if character not in known:
                known[character] = self._is_known(character)
            if not known[character]:
                return index
        return None

    def _is_known(self, character: str) -> bool:
        """Return whether a character has an id of its own, or is left out on purpose."""
        normalizer = self.backend.normalizer
        if normalizer is not None and not normalizer.normalize_str(character):
            return True
        try:
            ids: list[int] = self.backend.encode(character, add_special_tokens=False).ids
        except BaseException as error:  # as above
            if not library_failed(error):
                raise
            return False
        return bool(ids) and self.unknown_id not in ids


def library_failed(error: BaseException) -> bool:
    """Return whether `error` comes from the `tokenizers` library.

    It raises plain Exception, and PanicException, which is no Exception and has no module to
    import it from.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _unknown(text: str, position: int) -> InvalidInputError:
    character = text[position]
    return InvalidInputError(
        f"the character {character!r} (U+{ord(character):04X}) at position {position} of the text "
        f"is not in the model's vocabulary"
    )
