"""Arguments of calls that models write as text: what a schema makes of them.

As vLLM's parsers of these forms do: a string stays as it is, other types are read, and what cannot
be read stays a string.
"""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["choices_of", "converted", "types_of"]

DEEPEST = 32  # schemas within one another that are looked at
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


def types_of(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """Return the names of the types that values of a schema may have; none: they are not told.

    Args:
        schema: of the value.
        root: the schema that it is a part of, where its references lead.
    """
    return _told(schema, root, {}, DEEPEST) or set()


def _told(
    schema: Any, root: Mapping[str, Any], known: dict[int, set[str] | None], left: int
) -> set[str] | None:
    """Return the names of types; None: they are not told. One that lies in itself adds nothing.

    `known` has what was found of each part, by its id: each is looked at once.
    """
    if not isinstance(schema, Mapping) or left == 0:
        return None
    if id(schema) in known:
        return known[id(schema)]
    known[id(schema)] = set()
    told = schema.get("type")
    if told is not None:
        names = {one for one in (told if isinstance(told, list) else [told]) if type(one) is str}
        found = [names or None]
    else:
        given = [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        found = [{TYPES[type(one)][0] for one in given if type(one) in TYPES} or None]
        all_of = [*_listed(schema.get("allOf")), _referred(schema.get("$ref"), root)]
        found += [_told(part, root, known, left - 1) for part in all_of]
        for key in ("anyOf", "oneOf"):
            branches = [_told(part, root, known, left - 1) for part in _listed(schema.get(key))]
            sure = [one for one in branches if one is not None]
            found.append(set().union(*sure) if sure and len(sure) == len(branches) else None)
    all_told = [one for one in found if one is not None]
    known[id(schema)] = set().union(*all_told) if all_told else None
    return known[id(schema)]


def choices_of(schema: Any, root: Mapping[str, Any]) -> list[Any]:
    """Return the only values that a schema of `root` allows, as far as it lists them; or none."""
    own = _followed(schema, root)
    branches: list[Any] = next(
        (own[key] for key in ("anyOf", "oneOf") if _listed(own.get(key))), []
    )
    if not branches and len(_listed(own.get("allOf"))) == 1:  # a reference beside a default
        branches = own["allOf"]
    if not branches or _own_choices(own):
        return _own_choices(own)
    listed = [_own_choices(_followed(one, root)) for one in branches]
    return [value for one in listed for value in one] if all(listed) else []


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
    if isinstance(value, str):  # of another type than was wanted; but the quotes are not its own
        return value
    return value if not types or types & {*TYPES[type(value)]} else text


def _followed(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema to which a reference leads, perhaps by way of others."""
    for _ in range(DEEPEST):
        if not isinstance(schema, Mapping) or "$ref" not in schema or _own_choices(schema):
            break
        schema = _referred(schema["$ref"], root)
    return schema if isinstance(schema, Mapping) else {}


def _own_choices(schema: Mapping[str, Any]) -> list[Any]:
    if schema.get("type") == "null":
        return [None]
    return [schema["const"]] if "const" in schema else _listed(schema.get("enum"))


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
