"""The fields of a request: what each may be. Anything else is refused by its name."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .problems import Problem

__all__ = [
    "Fields",
    "boolean",
    "number",
    "parse_json",
    "string",
    "strings",
    "table",
    "whole",
    "wrong",
]

LARGEST_SHOWN = 60  # characters of a wrong value that are repeated

Check = Callable[[str, Any], Any]


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        Problem: if it is none, or holds NaN or Infinity.
    """
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Problem(f"the body is not JSON: {str(error) or 'nested too deep'}") from error
    if not isinstance(found, dict):
        raise Problem("the body is not a JSON object")
    return found


class Fields:
    """The fields of a request, each read once; `done` refuses what nobody has read."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.left = {name: value for name, value in given.items() if value is not None}

    def take(self, name: str, check: Check, default: Any = None) -> Any:
        """Return a field as `check` has it; `default` if it is not there, or null."""
        return check(name, self.left.pop(name)) if name in self.left else default

    def ignore(self, *names: str) -> None:
        """Accept fields that have no effect here."""
        for name in names:
            self.left.pop(name, None)

    def refuse(self, name: str, why: str, harmless: tuple[Any, ...] = ()) -> None:
        """Refuse a field, unless its value asks for nothing."""
        if name in self.left and self.left.pop(name) not in harmless:
            raise Problem(
                f"{name} is not supported: {why}", field=name, code="unsupported_parameter"
            )

    def done(self) -> None:
        """Refuse fields that nobody knows."""
        for name in self.left:
            shown = ascii(name[:LARGEST_SHOWN])[1:-1]
            raise Problem(
                f"{shown} is not a parameter of this server",
                field=shown,
                code="unsupported_parameter",
            )


def wrong(name: str, value: Any, expected: str) -> Problem:
    """Return what is wrong with a value."""
    return Problem(f"{name} is {value!r:.{LARGEST_SHOWN}}; it must be {expected}", field=name)


def number(least: float, most: float) -> Check:
    """Check for a number from `least` to `most`."""

    def check(name: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= min(most, sys.float_info.max):
            raise wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    return check


def whole(least: int, most: int) -> Check:
    """Check for a whole number from `least` to `most`."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return value

    return check


def boolean(name: str, value: Any) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def string(name: str, value: Any) -> str:
    """Check for a text."""
    if not isinstance(value, str):
        raise wrong(name, value, "a string")
    return value


def table(name: str, value: Any) -> dict[str, Any]:
    """Check for an object."""
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Check for a text, or a list of texts; none of them empty."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        raise wrong(name, value, "a string that is not empty, or a list of such strings")
    return tuple(listed)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
