"""Calls of functions in what a model writes, apart from the rest of it."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .argument_types import converted
from .call_forms import CallForm
from .thoughts import MOST_SPACE, certain

__all__ = ["Calls", "ToolCall"]

KEYS = ("arguments", "parameters")  # either is understood in all forms
NAME, ID = re.compile(r"[\w-]{1,64}", re.ASCII), re.compile(r"\s*\w{1,64}")


class ToolCall(NamedTuple):
    """A call: the function's name, and its arguments as the JSON of an object."""

    name: str
    arguments: str


class Calls:
    """Finds the calls in a text that comes in pieces; the rest is content.

    What begins as a call and turns out not to be one, since its arguments cannot be read or
    nobody offered the function, is content, to the letter. White space around calls is left out.

    Attributes:
        count: how many calls there were.
    """

    def __init__(
        self, form: CallForm, functions: Mapping[str, Any], most: int | None = None
    ) -> None:
        """Look for calls of functions; those beyond the first `most` are lost.

        `functions` has the schema of the arguments by the name of each.
        """
        self.form, self.functions, self.most, self.count = form, functions, most, 0
        self._held = ""
        self._inside = False  # of the marks around all calls, where these have marks of their own
        # Of the call that is being written: its name, its JSON, or what there is of its arguments.
        self._name = ""
        self._value: _Value | None = None
        self._given: dict[str, Any] = {}
        self._place = self._looked = 0  # where the next argument begins; where it does not end
        self._ends: list[str] = []  # what has still to come after it
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
        form = self.form
        marks = (form.begin, form.each, form.final) if self._inside else (form.begin,)
        found = re.search("|".join(map(re.escape, marks)), self._held)
        if found is None:
            kept = min(certain(self._held, mark) for mark in marks)
        elif self._inside and found[0] == form.final:
            kept, self._inside = found.end(), False
        else:
            kept, self._inside = len(self._held[: found.start()].rstrip()), bool(form.each)
            self._state = self._called
        content, self._held = self._held[:kept], self._held[kept:]
        return (content or None) if found is None else content

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
        """Where a call begins, after white space and its marks."""
        try:
            place = self._named(self._after_marks())
            if place == len(self._held):
                raise _UnfinishedError
        except _UnfinishedError:
            return None if len(self._held) <= MOST_SPACE else self._no_call()
        except ValueError:
            return self._no_call()
        if self.form.parameter is not None:
            self._given, self._place, self._looked = {}, place, 0
            self._state = self._among_parameters
            return ""
        if self._held[place] != ("[" if self.form.listed else "{"):
            return self._no_call()
        self._value = _Value(self._held[:place])
        self._held, self._state = self._held[place:], self._within
        return ""

    def _after_marks(self) -> int:
        """Return where the name or the JSON begins; raise ValueError if it does not."""
        place, form = 0, self.form
        for mark in (form.begin, form.each, form.optional):
            place = self._passed(mark, place, needed=False)
        return self._after_space(self._passed(form.lead.strip(), place))

    def _named(self, place: int) -> int:
        """Take the name, if it is not in the JSON; return where the arguments begin."""
        if self.form.key:
            return place
        name = NAME.match(self._held, place)
        if name is None or name.end() == len(self._held):
            if name is None and place < len(self._held):
                raise ValueError("no name")
            raise _UnfinishedError
        self._name, place = name[0], name.end()
        if self._name not in self.functions:
            raise ValueError("nobody offered it")
        if self.form.identified:
            after = self._passed(self.form.identified, place, needed=False)
            own = ID.match(self._held, after) if after > place else None
            place = after if own is None else own.end()
        return self._after_space(self._passed(self.form.after.strip(), place))

    def _among_parameters(self) -> "_Said":
        """Where an argument begins that is no JSON, or the mark that ends the call."""
        try:
            ended = self._argument()
        except _UnfinishedError:
            return None
        except ValueError:
            return self._no_call()
        if not ended:
            return ""
        self._held = self._held[self._place :]
        self._close()
        return [ToolCall(self._name, _json(self._given))]

    def _argument(self) -> bool:
        """Take an argument; return whether there is none, but the end of the call."""
        how, form = self.form.parameter, self.form
        assert how is not None, "others have JSON"
        bare = self._held[self._place :].lstrip()
        if not bare.startswith(how.open):
            end = form.tail.strip() or form.end
            if how.open.startswith(bare) or (end.startswith(bare) and bare != end):
                raise _UnfinishedError
            if not bare.startswith(end):
                raise ValueError("neither an argument nor the end")
            return True
        begin = self._passed(how.open, self._place)
        key_end = self._held.find(how.key_end.strip(), begin)
        if key_end < 0:
            raise _UnfinishedError if len(self._held) - begin <= MOST_SPACE else ValueError
        key = self._held[begin:key_end].strip()
        begin = key_end + len(how.key_end.strip())
        begin = self._passed(how.value_begin, begin) if how.value_begin else begin
        close = how.close.strip()
        end_of_value = self._held.find(close, max(begin, self._looked))
        if end_of_value < 0:
            self._looked = max(begin, len(self._held) - len(close))
            raise _UnfinishedError
        value = self._held[begin:end_of_value]
        if how.close.startswith("\n"):  # a line of its own
            value = value.removeprefix("\n").removesuffix("\n")
        schema = self.functions[self._name]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        own = properties.get(key) if isinstance(properties, Mapping) else None
        self._given[key] = converted(value, own, schema)
        self._place, self._looked = end_of_value + len(close), 0
        return False

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
            self._held = value.text + self._held
            return self._no_call(len(value.text))
        self._close()
        return calls

    def _close(self) -> None:
        """Look for the marks that end a call from now on."""
        form = self.form
        marks = (form.tail.strip(), form.end) if form.begin else (form.between.strip(),)
        self._ends, self._state = [mark for mark in marks if mark], self._closing

    def _closing(self) -> "_Said":
        """After a call, before the marks that end it, which may be missing."""
        is_there = False
        while self._ends:
            mark, bare = self._ends[0], self._held.lstrip()
            is_there = bare.startswith(mark)
            self._held = bare[len(mark) :] if is_there else bare
            if mark.startswith(bare) and not is_there:
                return None
            del self._ends[0]
        if self.form.begin:
            self._state = self._between if self.form.each else self._before
        else:
            self._state = self._opening if is_there else self._plain
        return ""

    def _between(self) -> "_Said":
        """After a call, where another one may follow, or the mark that ends them all."""
        bare = self._held.lstrip()
        if bare.startswith(self.form.each):
            self._held, self._state = bare, self._called
        elif bare.startswith(self.form.final):
            self._held, self._state = bare[len(self.form.final) :], self._before
            self._inside = False
        elif any(mark.startswith(bare) for mark in (self.form.each, self.form.final)):
            return None
        else:
            self._state = self._before
        return ""

    def _plain(self) -> "_Said":
        """Where there can be no call any more."""
        content, self._held = self._held, ""
        return content or None

    def _no_call(self, size: int | None = None) -> "_Said":
        """Return the beginning of what is no call as content: its first mark, or so much."""
        if size is None:
            marks = "|".join(re.escape(one) for one in (self.form.begin, self.form.each) if one)
            found = re.match(rf"\s*({marks})", self._held)
            size = self._after_space(0) if found is None else found.end()
        written, self._held = self._held[:size], self._held[size:]
        self._state = self._before if self.form.begin else self._plain
        return written

    def _passed(self, mark: str, place: int, *, needed: bool = True) -> int:
        """Return where the text after white space and a mark begins, or `place` without a mark.

        Raises:
            _UnfinishedError: if it may be there with more text.
            ValueError: if it is `needed` and not there.
        """
        if not mark:
            return place
        after = self._after_space(place)
        if self._held.startswith(mark, after):
            return after + len(mark)
        if mark.startswith(self._held[after:]):
            raise _UnfinishedError
        if needed:
            raise ValueError(f"{mark} is missing")
        return place

    def _after_space(self, place: int) -> int:
        return len(self._held) - len(self._held[place:].lstrip())

    def _read(self, text: str) -> list[ToolCall] | None:
        """Return the calls in a JSON value; None if it holds anything else."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
            if not self.form.key:
                value = {"name": self._name, KEYS[0]: value}
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
        if not isinstance(name, str) or name not in self.functions:
            raise ValueError("nobody offered it")
        given = [value[key] for key in KEYS if key in value]
        if not given and self.form.begin:
            given = [{}]  # without a mark it may be any object that has a name
        arguments = given[0] if given else None
        if not isinstance(arguments, dict):
            raise ValueError("arguments are an object")
        return ToolCall(name, _json(arguments))


_Said = str | list[ToolCall] | None


class _UnfinishedError(Exception):
    """More text is needed to know."""


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
