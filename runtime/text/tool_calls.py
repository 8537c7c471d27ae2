"""Calls of functions in what a model writes, apart from the rest of it."""

import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from .call_forms import CallForm
from .thoughts import MOST_SPACE, certain

__all__ = ["Calls", "ToolCall"]

KEYS = ("arguments", "parameters")  # either is understood in all forms


class ToolCall(NamedTuple):
    """A call: the function's name, and its arguments as the JSON of an object."""

    name: str
    arguments: str


class Calls:
    """Finds the calls in a text that comes in pieces; the rest is content.

    What begins as a call and turns out not to be one, since its arguments are no JSON or nobody
    offered the function, is content, to the letter. White space around calls is left out.

    Attributes:
        count: how many calls there were.
    """

    def __init__(self, form: CallForm, names: Collection[str], most: int | None = None) -> None:
        """Look for calls of functions with these names; those beyond the first `most` are lost."""
        self.form, self.names, self.most, self.count = form, frozenset(names), most, 0
        self._held = ""
        self._value: _Value | None = None  # of the call that is being written
        self._state: Callable[[], _Said] = self._before if form.begin else self._opening

    def push(self, piece: str) -> tuple[str, list[ToolCall]]:
        """Take a piece; return what is now certain of the content, and the calls."""
        self._held += piece
        content: list[str] = []
        calls: list[ToolCall] = []
        while (said := self._state()) is not None:
            if isinstance(said, str):
                content.append(said)
            else:
                calls += said[: len(said) if self.most is None else max(0, self.most - self.count)]
                self.count += len(said)
        return "".join(content), calls

    def finish(self) -> str:
        """Return the content that was held back for a call that did not come."""
        rest = ("" if self._value is None else self._value.text) + self._held
        self._held, self._value = "", None
        return "" if self.count and not rest.strip() else rest

    # Each state returns content or calls, or None if it can only go on with more text.

    def _before(self) -> "_Said":
        """Before a call that begins with a mark."""
        content, mark, _ = self._held.partition(self.form.begin)
        kept = len(content.rstrip()) if mark else certain(content, self.form.begin)
        content, self._held = self._held[:kept], self._held[kept:]
        if mark:
            self._state = self._called
            return content
        return content or None

    def _opening(self) -> "_Said":
        """At the beginning of a text that is a call as a whole, or content."""
        bare = self._held.lstrip()
        if not self.form.optional.startswith(bare):
            self._state = self._called
        elif len(self._held) > MOST_SPACE:
            self._state = self._plain
        else:
            return None
        return ""

    def _called(self) -> "_Said":
        """Where a call begins, after white space and its mark."""
        place = 0
        for mark in (self.form.begin, self.form.optional):
            place = self._after_space(place)
            place += len(mark) if self._held.startswith(mark, place) else 0
        place = self._after_space(place)
        if place == len(self._held) <= MOST_SPACE:
            return None
        if self._held[place : place + 1] != ("[" if self.form.listed else "{"):
            end = self._after_space(0) + len(self.form.begin)
            written, self._held = self._held[:end], self._held[end:]
            return self._no_call(written)
        self._value = _Value(self._held[:place])
        self._held, self._state = self._held[place:], self._within
        return ""

    def _within(self) -> "_Said":
        """Within the JSON of a call, or of a list of them."""
        assert self._value is not None, "it has just begun"
        piece, self._held = self._held, ""
        end = self._value.take(piece)
        if end is None:
            return None
        value, self._value, self._held = self._value, None, piece[end:]
        calls = self._read(value.text[len(value.before) :])
        if calls is None:
            return self._no_call(value.text)
        self._state = self._closing
        return calls

    def _closing(self) -> "_Said":
        """After a call, before the mark that ends it."""
        mark = self.form.end if self.form.begin else self.form.between.strip()
        bare = self._held.lstrip()
        is_there = bare.startswith(mark)
        self._held = bare[len(mark) :] if is_there else bare
        if mark.startswith(bare) and not is_there:
            return None
        if self.form.begin:
            self._state = self._before
        else:
            self._state = self._opening if is_there else self._plain
        return ""

    def _plain(self) -> "_Said":
        """Where there can be no call any more."""
        content, self._held = self._held, ""
        return content or None

    def _no_call(self, written: str) -> "_Said":
        self._state = self._before if self.form.begin else self._plain
        return written

    def _after_space(self, place: int) -> int:
        return len(self._held) - len(self._held[place:].lstrip())

    def _read(self, text: str) -> list[ToolCall] | None:
        """Return the calls in a JSON value; None if it holds anything else."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
            calls = [self._call(one) for one in (value if self.form.listed else [value])]
        except (ValueError, RecursionError):
            return None
        return calls or None

    def _call(self, value: Any) -> ToolCall:
        """Return a call.

        Raises:
            ValueError: if it is none.
        """
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self.names:
            raise ValueError("nobody offered it")
        given = [value[key] for key in KEYS if key in value]
        if not given and self.form.begin:
            given = [{}]  # without a mark it may be any object that has a name
        arguments = given[0] if given else None
        if not isinstance(arguments, dict):
            raise ValueError("arguments are an object")
        return ToolCall(name, _json(arguments))


_Said = str | list[ToolCall] | None


class _Value:
    """An object or a list of JSON that comes in pieces, and what was written `before` it."""

    def __init__(self, before: str) -> None:
        self.before, self._parts = before, [before]
        self._depth, self._quoted, self._escaped = 0, False, False

    @property
    def text(self) -> str:
        """What there is of it."""
        return "".join(self._parts)

    def take(self, piece: str) -> int | None:
        """Take the next piece; return where in it the value ends; None: not there."""
        end = self._end_in(piece)
        self._parts.append(piece[:end])
        return end

    def _end_in(self, piece: str) -> int | None:
        for place, letter in enumerate(piece):
            if self._quoted:
                self._quoted = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return None


def _json(value: Any) -> str:
    """Return a value as JSON that UTF-8 can hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # the model wrote half of a pair, such as \ud83d
        return json.dumps(value)
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
