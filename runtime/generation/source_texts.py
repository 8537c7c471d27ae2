"""Turn the sources of an encoder-decoder into ids, the way the model wants them."""

from ..bundle.bundle import SOURCE_TOKENIZER_NAME, Bundle
from ..bundle.usage import SourceUsage, Usage
from ..errors import InvalidInputError
from ..text.tokenizer import Tokenizer
from .arguments import Prompt

__all__ = ["SourceTexts"]

LISTED = 8  # codes of languages in a message


class SourceTexts:
    """The tokenizer of a bundle's sources, and what belongs around them."""

    def __init__(self, bundle: Bundle, usage: Usage, tokenizer: Tokenizer | None) -> None:
        """Read the tokenizer of the sources; it is `tokenizer` unless they have their own."""
        info = bundle.manifest.model_info.encoder
        assert info is not None, "only an encoder-decoder has sources"
        self.longest, self.vocab_size = info.block_size, info.vocab_size
        self.usage, self.tokenizer = usage.source or SourceUsage(), tokenizer
        if bundle.has(SOURCE_TOKENIZER_NAME):
            file = bundle.file(SOURCE_TOKENIZER_NAME)
            self.tokenizer = Tokenizer(file.read_bytes(), self.vocab_size)

    def encode(self, source: Prompt) -> list[int]:
        """Return the ids of a source; refuse an empty, impossible or too long one.

        Text gets what the model wants around it. Ids are taken as they are.
        """
        if not isinstance(source, str):
            ids = [int(token) for token in source]
        elif self.tokenizer is None:
            raise InvalidInputError("this bundle has no tokenizer; give the source as token ids")
        else:
            if not source.strip():
                raise InvalidInputError("the source is empty")
            ids = self.usage.around(self.tokenizer.encode(source))
        if not ids:
            raise InvalidInputError("the source is empty")
        beyond = [token for token in ids if not 0 <= token < self.vocab_size]
        if beyond:
            raise InvalidInputError(
                f"the token id {beyond[0]} is not in the sources' vocabulary of {self.vocab_size}"
            )
        if len(ids) > self.longest:
            raise InvalidInputError(
                f"the source has {len(ids)} tokens, and the model reads {self.longest} at most; "
                f"shorten it, or give it in parts"
            )
        return ids

    def language(self, code: str) -> int:
        """Return the id of the language `code`, which begins a text in that language.

        Raises:
            InvalidInputError: if the model knows no such code.
        """
        if not self.usage.languages:
            raise InvalidInputError("this model has no codes of languages")
        if code not in self.usage.languages:
            known = sorted(self.usage.languages)
            told = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
            raise InvalidInputError(f"no language {code!r:.40}; the model knows: {told}")
        return self.usage.languages[code]
