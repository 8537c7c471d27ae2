"""The functions that a request offers to the model, and whether it has to call one."""

import re
from dataclasses import dataclass
from typing import Any

from .fields import Fields, boolean, wrong
from .problems import Problem

__all__ = ["Tools", "tools"]

MOST_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
OBJECT = {"type": "object"}


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call.

    Attributes:
        listed: as the template gets them.
        forced: names of those of which it has to call one; none: it need not.
        strict: whether its calls have to follow the schemas also where it need not call any.
        many: whether it may call several.
    """

    listed: list[dict[str, Any]]
    forced: tuple[str, ...]
    strict: bool
    many: bool

    @property
    def schemas(self) -> dict[str, Any]:
        """The schema of the arguments of each function."""
        functions = [one["function"] for one in self.listed]
        return {one["name"]: one.get("parameters", OBJECT) for one in functions}


def tools(fields: Fields) -> Tools | None:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`; None: there is nothing to call."""
    listed = fields.take("tools", _listed, [])
    names = [one["function"]["name"] for one in listed]
    choice = fields.take("tool_choice", _choice, "auto")
    many = fields.take("parallel_tool_calls", boolean, default=True)
    if choice in ("auto", "none"):
        forced: tuple[str, ...] = ()
    elif choice == "required":
        forced = tuple(names)
    else:
        forced = tuple(name for name in names if name == choice["name"])
    if choice not in ("auto", "none") and not forced:
        raise Problem("tool_choice asks for a function that tools do not have", field="tool_choice")
    strict = [one["function"].pop("strict", None) for one in listed]
    return Tools(listed, forced, any(strict), many) if listed and choice != "none" else None


def _listed(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise wrong(name, value, "a list of functions")
    if len(value) > MOST_TOOLS:
        raise Problem(f"{name} has {len(value):,} functions; there may be {MOST_TOOLS}", field=name)
    found = [_tool(f"{name}[{number}]", one) for number, one in enumerate(value)]
    names = [one["function"]["name"] for one in found]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise Problem(f"{name} has the function {twice} twice", field=name)
    return found


def _tool(where: str, value: Any) -> dict[str, Any]:
    """Return a function as templates get it, in a copy."""
    kind = value.get("type", "function") if isinstance(value, dict) else None
    function = value.get("function") if kind == "function" else None
    if not isinstance(function, dict):
        expected = 'a function such as {"type": "function", "function": {"name": ...}}'
        raise wrong(where, value, expected)
    function = {key: part for key, part in function.items() if part is not None}
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong(f"{where}.function.name", name, "up to 64 letters, digits, _ and -")
    for key, kinds, expected in (
        ("description", str, "a string"),
        ("parameters", dict, "a JSON schema of an object"),
        ("strict", bool, "true or false"),
    ):
        if not isinstance(function.get(key, kinds()), kinds):
            raise wrong(f"{where}.function.{key}", function[key], expected)
    if function.get("parameters", OBJECT).get("type", "object") != "object":
        raise wrong(
            f"{where}.function.parameters",
            function["parameters"],
            expected="a JSON schema of an object",
        )
    return {"type": "function", "function": function}


def _choice(name: str, value: Any) -> Any:
    if value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) else None
    if isinstance(function, dict) and value.get("type") == "function":
        chosen = function.get("name")
        if isinstance(chosen, str):
            return {"name": chosen}
    raise wrong(
        name,
        value,
        '"none", "auto", "required", or {"type": "function", "function": {"name": ...}}',
    )
