"""Tables of characters beside a state dict: stoi, itos, or both, as lessons save them."""

from collections.abc import Mapping
from typing import Any

from ...training.char_tokenizer import char_tokenizer

__all__ = ["tokenizer_of"]


def tokenizer_of(beside: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the tokenizer.json that a file's tables make, and a note if they make none.

    The tables may stand beside the state dict, or in a dict that does, such as "meta".

    Args:
        beside: what stands beside the state dict.
        where: the file, for messages.
    """
    for place in (beside, *(value for value in beside.values() if isinstance(value, dict))):
        tables = {name: place[name] for name in ("stoi", "itos") if name in place}
        if tables:
            return _tokenizer(tables, where)
    return None, ()


def _tokenizer(tables: dict[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    read = [_by_character(name, table) for name, table in tables.items()]
    if any(table is None for table in read) or read[0] != read[-1]:
        told = f"{where}: {' and '.join(tables)} give no id to each of some characters; no "
        return None, (f"{told}tokenizer is made of them",)
    assert read[0] is not None
    return char_tokenizer(read[0]).to_str(), ()


def _by_character(name: str, table: Any) -> dict[str, int] | None:
    """Return the id of each character; None if the table is of another kind."""
    if name == "itos":
        pairs = enumerate(table) if isinstance(table, list | str) else _items(table)
        entries = [(text, number) for number, text in pairs]
    else:
        entries = list(_items(table))
    fits = all(_is_character(text) and type(number) is int for text, number in entries)
    if not entries or not fits:
        return None
    ids = dict(entries)
    distinct = len(ids) == len(set(ids.values())) == len(entries)
    return ids if distinct and min(ids.values()) >= 0 else None


def _items(table: Any) -> list[tuple[Any, Any]]:
    return list(table.items()) if isinstance(table, dict) else []


def _is_character(text: Any) -> bool:
    """Return whether `text` is one character, and no half of a surrogate pair."""
    return isinstance(text, str) and len(text) == 1 and not 0xD800 <= ord(text) <= 0xDFFF
