"""Turn the sources of an encoder-decoder into ids, the way the model wants them."""

from collections.abc import Collection
from difflib import get_close_matches

from ..bundle.bundle import SOURCE_TOKENIZER_NAME, Bundle
from ..bundle.usage import LONGEST_CODE, SourceUsage, Usage
from ..errors import InvalidInputError
from ..text.tokenizer import Tokenizer
from .arguments import Prompt

__all__ = ["SourceTexts"]

NEAREST = 8  # codes of languages in a message


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

    def encode(self, source: Prompt, language: str | None = None) -> list[int]:
        """Return the ids of a source; refuse an empty, impossible or too long one.

        Text gets what the model wants around it, such as the id of its `language`, None: of that
        which the bundle names. Ids are taken as they are.
        """
        code = None if language is None else self.language(language, "source_language")
        if not isinstance(source, str):
            if code is not None:
                raise InvalidInputError(
                    "source_language is for sources of text; ids are taken as they are"
                )
            ids = [int(token) for token in source]
        elif self.tokenizer is None:
            raise InvalidInputError("this bundle has no tokenizer; give the source as token ids")
        else:
            if not source.strip():
                raise InvalidInputError("the source is empty")
            ids = self.usage.around(self.tokenizer.encode(source), code)
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

    def language(self, code: str, name: str) -> int:
        """Return the id of the language `code`; `name` is that of the argument.

        Raises:
            InvalidInputError: if the model knows no such code.
        """
        known = self.usage.languages
        if not known:
            raise InvalidInputError(f"{name} is for models with codes of languages; leave it out")
        if not isinstance(code, str) or code not in known:
            raise InvalidInputError(
                f"{name} is {code!r:.40}, which is no language of the model; {_near(code, known)}"
            )
        return known[code]


def _near(code: object, known: Collection[str]) -> str:
    """Tell which of the known codes are the nearest to one that is not known."""
    by_name = {one.lower(): one for one in sorted(known)}
    if len(known) <= NEAREST:
        return f"it knows {', '.join(by_name.values())}"
    near = get_close_matches(str(code)[:LONGEST_CODE].lower(), by_name, NEAREST, cutoff=0.3)
    if not near:
        return f"it knows {len(known)}, such as {', '.join(list(by_name.values())[:NEAREST])}"
    return f"of its {len(known)}, the nearest are {', '.join(by_name[one] for one in near)}"
