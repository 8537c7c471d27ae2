"""The ids that stand before a plain prompt, and the check of ids against the embedding."""

import json
from typing import Any

from tokenizers import Tokenizer

from ...errors import CheckpointError
from .backend import quote

__all__ = ["prefix_ids", "within"]

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
    return _template_prefix(processor) if kind == "TemplateProcessing" else None


def _template_prefix(processor: dict[str, Any]) -> tuple[int, ...]:
    ids: list[int] = []
    for part in processor["single"]:
        if "SpecialToken" not in part:
            break
        name = part["SpecialToken"]["id"]
        if name not in processor["special_tokens"]:
            raise CheckpointError(
                f"the tokenizer begins a text with {quote(name)}, which is no token"
            )
        ids += processor["special_tokens"][name]["ids"]
    return tuple(ids)
