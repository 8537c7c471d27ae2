"""Fit a tokenizer to the model's embedding: no id may lie beyond its rows."""

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from ...errors import CheckpointError
from ...user_files import parsed
from .backend import backend_of, listed, quote

__all__ = ["Fitted", "fitted"]


class Fitted(NamedTuple):
    """A tokenizer.json that fits the embedding, and notes on what was dropped from it.

    `tokenizer` is the same, read before anything was dropped.
    """

    text: str
    tokenizer: Tokenizer
    notes: tuple[str, ...]


def fitted(text: str, rows: int, where: str) -> Fitted:
    """Return tokenizer.json without what the model has no row for.

    Added tokens beyond the embedding are dropped, for the model cannot have learned them. Settings
    that cut or pad every text or, for training, cut words at random are dropped, too. A tokenizer
    that needs no change is returned as it is, to the byte.

    Args:
        text: the JSON text of a tokenizer.
        rows: rows of the embedding.
        where: what to call the tokenizer in messages.

    Raises:
        CheckpointError: if `text` is no tokenizer, or a token that is not an added one is beyond
            the embedding.
    """
    tokenizer = backend_of(text, where)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    beyond = [token for token, number in sorted(ids.items(), key=_number) if number >= rows]
    ordinary = [token for token in beyond if token not in added]
    if ordinary:
        count = "a token" if len(ordinary) == 1 else f"{len(ordinary):,} tokens"
        raise CheckpointError(
            f"{where} has {count} beyond the embedding's {rows:,} rows, the first of them "
            f"{quote(ordinary[0])}: it belongs to another model"
        )
    dropout = getattr(tokenizer.model, "dropout", None)
    if not beyond and not any((tokenizer.truncation, tokenizer.padding, dropout)):
        return Fitted(text, tokenizer, ())
    document = parsed(text, where)
    document["truncation"] = document["padding"] = None
    if dropout:
        document["model"]["dropout"] = None
    _drop(document, set(beyond))
    notes = (_note(beyond, rows),) if beyond else ()
    return Fitted(json.dumps(document, ensure_ascii=False), tokenizer, notes)


def _number(entry: tuple[str, int]) -> int:
    return entry[1]


def _drop(document: dict[str, Any], tokens: set[str]) -> None:
    """Remove tokens from the list of added ones and from the model's vocabulary."""
    document["added_tokens"] = [
        token for token in document["added_tokens"] if token["content"] not in tokens
    ]
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        kept: Any = {token: number for token, number in vocabulary.items() if token not in tokens}
    else:  # a unigram model lists [token, score], and the place is the id
        kept = [entry for entry in vocabulary if entry[0] not in tokens]
    document["model"]["vocab"] = kept


def _note(tokens: list[str], rows: int) -> str:
    count = "1 added token" if len(tokens) == 1 else f"{len(tokens):,} added tokens"
    verb = "was" if len(tokens) == 1 else "were"
    return f"{count} beyond the embedding's {rows:,} rows {verb} dropped: {listed(tokens)}"
