"""The result of reading a source's text side."""

from dataclasses import dataclass

from edgegpt.runtime.bundle.usage import Usage

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """What a source says about text.

    Attributes:
        tokenizer_json: the tokenizer in the `tokenizers` format; None if the model works with ids
            only. It never has an id beyond the embedding.
        usage: the ids that begin a prompt and end a text, and default sampling.
        chat_template: Jinja text, carried as it is and never run here; None if there is none.
        source_tokenizer_json: of an encoder-decoder, the tokenizer of its sources, if it is another
            one than that of its targets.
        notes: sentences for the user, about what was left out and why.
    """

    tokenizer_json: str | None
    usage: Usage
    chat_template: str | None
    notes: tuple[str, ...] = ()
    source_tokenizer_json: str | None = None
