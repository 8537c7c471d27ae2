"""The ids that stand before a plain prompt, and the check of ids against the embedding."""

import json
from typing import Any

from tokenizers import Tokenizer

__all__ = ["prefix_ids", "within"]

SHOWN = 5  # ids in a note


def prefix_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that the tokenizer's post-processor puts before a text, usually BOS."""
    processor = tokenizer.post_processor
    return () if processor is None else _prefix(json.loads(processor.__getstate__()))


def within(ids: tuple[int, ...], rows: int, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids below `rows`, each once, and a note if others were dropped."""
    beyond = [number for number in ids if not 0 <= number < rows]
    kept = tuple(dict.fromkeys(number for number in ids if 0 <= number < rows))
    if not beyond:
        return kept, ()
    listed = ", ".join(map(str, beyond[:SHOWN])) + (", ..." if len(beyond) > SHOWN else "")
    return kept, (f"{name} ids beyond the embedding's {rows:,} rows were dropped: {listed}",)


def _prefix(processor: dict[str, Any]) -> tuple[int, ...]:
    kind = processor["type"]
    if kind == "Sequence":
        ids: tuple[int, ...] = ()
        for one in processor["processors"]:
            ids = _prefix(one) + ids  # each works on what the one before it made
        return ids
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (int(processor["cls"][1]),)
    return _template_prefix(processor) if kind == "TemplateProcessing" else ()


def _template_prefix(processor: dict[str, Any]) -> tuple[int, ...]:
    ids: list[int] = []
    for part in processor["single"]:
        if "SpecialToken" not in part:
            break
        ids += processor["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return tuple(ids)
