"""Read the text side of a Hugging Face folder."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgegpt.runtime.bundle.usage import Usage

from ...errors import CheckpointError
from .chat_template import chat_template_of
from .embedding import fitted
from .found import Found
from .generation import Generation, read_generation
from .ids import prefix_ids, searched, within
from .special_tokens import SpecialTokens, read_special_tokens
from .tokenizer_files import Read, read_tokenizer

__all__ = ["text_of_folder"]

# The BOS of transformers' classes, where a folder does not name it.
BOS_OF_CLASSES = {"LlamaTokenizer": "<s>", "CodeLlamaTokenizer": "<s>", "GemmaTokenizer": "<bos>"}


def text_of_folder(folder: Path, vocab_size: int, config: dict[str, Any]) -> Found:
    """Return what a Hugging Face folder says about text.

    A tokenizer.json is taken as it is; else one is built from vocab.json and merges.txt, or from a
    SentencePiece model. A folder without any of them gives a model that works with ids only.

    Args:
        folder: the folder.
        vocab_size: rows of the model's embedding.
        config: the content of its config.json.

    Raises:
        CheckpointError: if a file is damaged or too large, or if the tokenizer has an ordinary
            token beyond the embedding.
    """
    special = read_special_tokens(folder)
    generation = read_generation(folder, config)
    template, notes = chat_template_of(folder, special.config)
    read = read_tokenizer(folder, special)
    if isinstance(read, str):
        usage, more = _usage(generation, Roles(special), vocab_size)
        return Found(None, usage, template, (read, *more, *notes))
    fit = fitted(read.text, vocab_size, read.where)
    roles = Roles(special, fit.tokenizer, read)
    usage, more = _usage(generation, roles, vocab_size)
    return Found(fit.text, usage, template, (*fit.notes, *more, *notes))


class Roles:
    """Which tokens begin, end and pad a text, as far as the tokenizer's own files say."""

    def __init__(
        self,
        special: SpecialTokens,
        tokenizer: Tokenizer | None = None,
        read: Read | None = None,
    ) -> None:
        """Take the tokens that the files name, and those of this kind of tokenizer otherwise."""
        self.config, self.tokenizer = special.config, tokenizer
        self.begins = read is not None and read.begins
        bos, eos = (read.bos, read.eos) if read else (None, None)
        usual = {"bos_token": BOS_OF_CLASSES.get(special.class_name or "", bos), "eos_token": eos}
        self.texts = special.roles | {
            name: text
            for name, text in usual.items()
            if text is not None and name not in special.roles and name not in special.config
        }

    def start_ids(self) -> tuple[int, ...]:
        """Return what stands before a plain prompt.

        What a tokenizer.json puts there decides, as in transformers 5. If it has nothing that
        could, then add_bos_token of tokenizer_config.json does, as in transformers 4, for which
        such files were written; then what this kind of tokenizer always did.
        """
        if self.tokenizer is None:
            return ()
        own = prefix_ids(self.tokenizer)
        if own is not None:
            return own
        says = self.config.get("add_bos_token")
        return self.ids("bos_token") if says is True or (says is None and self.begins) else ()

    def ids(self, name: str) -> tuple[int, ...]:
        """Return the id of the token with a role, such as "eos_token", or nothing."""
        if self.tokenizer is None or name not in self.texts:
            return ()
        number = self.tokenizer.token_to_id(self.texts[name])
        return () if number is None else (int(number),)


def _usage(generation: Generation, roles: Roles, rows: int) -> tuple[Usage, tuple[str, ...]]:
    """Return how the model is used, and notes on ids that it has no row for."""
    start = roles.start_ids()
    if any(number >= rows for number in start):
        raise CheckpointError(
            f"a prompt begins with the ids {', '.join(map(str, start))}, but the embedding has "
            f"{rows:,} rows"
        )
    end, end_notes = within(generation.ids("eos_token_id") or roles.ids("eos_token"), rows, "end")
    pad, pad_notes = within(generation.ids("pad_token_id") or roles.ids("pad_token"), rows, "pad")
    search, search_notes = searched(generation.search(), rows)
    usage = Usage(start, end, pad[0] if pad else None, generation.sampling(), roles.texts, search)
    return usage, (*end_notes, *pad_notes, *search_notes, *generation.notes())
