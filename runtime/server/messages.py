"""The messages of a chat, from OpenAI's form to the one that templates know."""

import json
from typing import Any

from .fields import wrong
from .problems import Problem

__all__ = ["messages"]

Message = dict[str, Any]


def messages(name: str, value: Any) -> list[Message]:
    """Check for a list of messages; return them with contents of text and calls of objects."""
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise wrong(name, value, "a list of messages")
    return [_message(f"{name}[{number}]", one) for number, one in enumerate(value)]


def _message(where: str, given: Message) -> Message:
    found = dict(given)
    if isinstance(given.get("content"), list):
        found["content"] = "".join(
            _text(f"{where}.content[{number}]", part)
            for number, part in enumerate(given["content"])
        )
    for key in ("content", "reasoning_content"):
        if not isinstance(found.get(key), str | None):
            expected = "a string, or a list of parts" if key == "content" else "a string"
            raise wrong(f"{where}.{key}", found[key], expected)
    if given.get("role") == "tool" and not isinstance(given.get("tool_call_id"), str):
        raise Problem(f"{where} is the answer of a tool without its tool_call_id", field=f"{where}")
    calls = given.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            raise wrong(f"{where}.tool_calls", calls, "a list of calls")
        found["tool_calls"] = [
            _call(f"{where}.tool_calls[{number}]", call) for number, call in enumerate(calls)
        ]
        if not calls:
            del found["tool_calls"]
    return found


def _text(where: str, part: Any) -> str:
    """Return the text of a part of a content."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise Problem(f"{where} has the type {kind!r:.40}; only 'text' is served", field=where)
    if not isinstance(part.get("text"), str):
        raise wrong(f"{where}.text", part.get("text"), "a string")
    return str(part["text"])


def _call(where: str, given: Any) -> dict[str, Any]:
    """Return a call with its arguments as an object, which templates write as they like."""
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong(where, given, 'a call such as {"id": ..., "function": {"name": ...}}')
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise wrong(f"{where}.function.arguments", function["arguments"], "the JSON of an object")
    own = {"name": function["name"], "arguments": arguments}  # in the order that models learned
    return {"type": "function", **given, "function": own}
