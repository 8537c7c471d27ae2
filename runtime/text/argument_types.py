"""Arguments of calls that models write as text: what a schema makes of them.

As vLLM's parsers of these forms do: a string stays as it is, other types are read, and what cannot
be read stays a string.
"""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["converted", "types_of"]

MOST_REFERENCES = 8
WORDS = {"True": True, "False": False, "None": None}  # as templates in Python's manner teach them
TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    dict: ("object",),
    list: ("array",),
    type(None): ("null",),
}


def types_of(schema: Any, root: Mapping[str, Any], left: int = MOST_REFERENCES) -> set[str]:
    """Return the names of the types that values of a schema may have; none: they are not told.

    Args:
        schema: of the value.
        root: the schema that it is a part of, where its references lead.
        left: how many schemas within one another are looked at.
    """
    if not isinstance(schema, Mapping) or left == 0:
        return set()
    told = schema.get("type")
    if told is not None:
        return {one for one in (told if isinstance(told, list) else [told]) if type(one) is str}
    given = [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
    found = {TYPES[type(value)][0] for value in given if type(value) in TYPES}
    inner = [part for key in ("anyOf", "oneOf", "allOf") for part in _listed(schema.get(key))]
    inner += [_referred(schema["$ref"], root)] if "$ref" in schema else []
    return found.union(*(types_of(part, root, left - 1) for part in inner))


def converted(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the value of an argument of this schema, which is a part of `root`."""
    types, bare = types_of(schema, root), text.strip()
    if "string" in types and not ("null" in types and bare in ("null", "None")):
        return text
    try:
        value = WORDS[bare] if bare in WORDS else json.loads(bare, parse_constant=_no_constant)
        json.dumps(value, allow_nan=False)  # 1e999 is infinite
    except (ValueError, RecursionError):
        return text
    if isinstance(value, float) and value.is_integer() and "integer" in types:
        value = int(value)
    return value if not types or types & {*TYPES[type(value)]} else text


def _referred(place: Any, root: Mapping[str, Any]) -> Any:
    """Return the part of a schema that a reference names, such as #/$defs/tree."""
    found: Any = root
    if not isinstance(place, str) or not place.startswith("#"):
        return None
    for key in place[1:].split("/")[1:]:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
