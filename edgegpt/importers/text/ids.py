"""The ids that stand before a plain prompt, and the check of ids against the embedding."""

import json
from dataclasses import replace
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

from edgegpt.runtime.bundle.search import Search

from ...errors import CheckpointError
from .backend import quote

__all__ = ["prefix_ids", "searched", "suffix_ids", "within"]

SHOWN = 5  # ids in a note


def prefix_ids(tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """Return the ids that the tokenizer's post-processor puts before a text, usually BOS.

    None: it has no post-processor that could.
    """
    processor = tokenizer.post_processor
    return None if processor is None else _prefix(json.loads(processor.__getstate__()))


def within(ids: tuple[int, ...], rows: int, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids below `rows`, each once, and a note if others were dropped."""
    beyond = [number for number in ids if not 0 <= number < rows]
    kept = tuple(dict.fromkeys(number for number in ids if 0 <= number < rows))
    if not beyond:
        return kept, ()
    listed = ", ".join(map(str, beyond[:SHOWN])) + (", ..." if len(beyond) > SHOWN else "")
    return kept, (f"{name} ids beyond the embedding's {rows:,} rows were dropped: {listed}",)


def suffix_ids(tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """Return the ids that the tokenizer's post-processor puts after a text, usually EOS.

    None: it has no post-processor that could.
    """
    processor = tokenizer.post_processor
    return None if processor is None else _suffix(json.loads(processor.__getstate__()))


def searched(search: Search, rows: int) -> tuple[Search, tuple[str, ...]]:
    """Return settings of a search with the ids below `rows` only, and a note on others."""
    _, notes = within(tuple(sorted(search.ids)), rows, "forced and forbidden")
    if not notes:
        return search, ()
    bos, eos = (
        None if token is None or token >= rows else token
        for token in (search.forced_bos, search.forced_eos)
    )
    words = tuple(word for word in search.bad_words if max(word) < rows)
    return replace(search, forced_bos=bos, forced_eos=eos, bad_words=words), notes


def _suffix(processor: dict[str, Any]) -> tuple[int, ...] | None:
    kind = processor["type"]
    if kind == "Sequence":
        ids: tuple[int, ...] | None = None
        for one in map(_suffix, processor["processors"]):
            if one is not None:
                ids = (ids or ()) + one
        return ids
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (int(processor["sep"][1]),)
    if kind != "TemplateProcessing":
        return None
    return tuple(chain.from_iterable(_outer(processor, processor["single"][::-1], "ends")[::-1]))


def _prefix(processor: dict[str, Any]) -> tuple[int, ...] | None:
    kind = processor["type"]
    if kind == "Sequence":
        ids: tuple[int, ...] | None = None
        for one in map(_prefix, processor["processors"]):
            if one is not None:
                ids = one + (ids or ())  # each works on what the one before it made
        return ids
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (int(processor["cls"][1]),)
    if kind != "TemplateProcessing":
        return None
    return tuple(chain.from_iterable(_outer(processor, processor["single"], "begins")))


def _outer(processor: dict[str, Any], parts: list[Any], verb: str) -> list[list[int]]:
    """Return the ids of each special token of a template before it comes to the text."""
    found = []
    for part in parts:
        if "SpecialToken" not in part:
            break
        name = part["SpecialToken"]["id"]
        if name not in processor["special_tokens"]:
            raise CheckpointError(
                f"the tokenizer {verb} a text with {quote(name)}, which is no token"
            )
        found.append(processor["special_tokens"][name]["ids"])
    return found
