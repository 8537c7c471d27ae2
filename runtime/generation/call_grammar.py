"""Forms of texts that call functions, in a model's own form of calls, perhaps after thoughts."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInputError
from ..text.argument_types import choices_of, types_of
from ..text.call_forms import MARK, CallForm
from ..text.thoughts import CLOSE, OPEN
from ..text.tokenizer import Tokenizer
from .grammar import Form, json_rule, schema_of

__all__ = ["calls_of", "thoughts_rule"]

ANY_OBJECT = {"type": "object"}
ANYTHING = r"/(?s:.*)/"
NO_OBJECT = r"/(?s:\s*[^\s{].*)?/"
SHORT_SPACE = r"/[ \n]{0,2}/"
ID = "/[a-zA-Z0-9]{9}/"
DEFINITIONS = ("$defs", "definitions")
ELSEWHERE = ("$ref", "anyOf", "oneOf", "allOf")  # where properties may be that are not in sight
FREE = ("patternProperties", "additionalProperties")  # which may have any name


def calls_of(
    form: CallForm,
    functions: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    many: bool,
    forced: bool = True,
    otherwise: Form | None = None,
) -> Form:
    """Return the form of texts that are a call of one of the functions, or of `many`.

    Args:
        form: how the model writes calls.
        functions: the schema of the arguments by the name of each; names are plain words.
        tokenizer: its tokens for marks are used where it has some.
        many: allow several calls, but not where a call has no mark.
        forced: False: a text may also have no call, or begin with other things.
        otherwise: of JSON, the form of a text without calls, which has nothing else; where a call
            has a mark, so that one can be told from the other.

    Raises:
        InvalidInputError: if a schema cannot be followed.
    """
    rules = _Rules(form, tokenizer)
    names = " | ".join(f"call_{number}" for number in range(len(functions)))
    lines = [*rules.body(otherwise, forced=forced), *rules.opened(many=many), f"call: {names}"]
    for number, (name, schema) in enumerate(functions.items()):
        where = f"the parameters of {name}"
        own = ANY_OBJECT | schema_of(schema, where)
        Form(own, name=where)  # or the complaint would be about the whole grammar
        lines += rules.call(number, name, own, where)
    return Form(rules="\n".join(lines) + "\n", name="tools")


class _Rules:
    """The Lark rules of a form of calls."""

    def __init__(self, form: CallForm, tokenizer: Tokenizer) -> None:
        self.form, self.tokenizer = form, tokenizer

    def body(self, otherwise: Form | None, *, forced: bool) -> list[str]:
        """Return the rules of the whole text."""
        form, begin = self.form, self._spelled(self.form.begin)
        if forced:
            return [f"body: {begin} opened"]
        if otherwise is not None:
            content = otherwise.rules.replace("body:", "content:", 1)
            return [f"body: {begin} opened | content", content]
        if not form.begin:
            before = f"{self._spelled(form.optional)}?"
            return [f"body: {before} opened | PLAIN", f"PLAIN: {NO_OBJECT}"]
        plain = f"PLAIN: {ANYTHING} & ~/(?s:.*){re.escape(form.begin)}(?s:.*)/"
        if not begin.startswith('"'):
            return [f"body: PLAIN {begin} opened | PLAIN", plain]
        until = f"until_call[suffix={begin}]: {ANYTHING}"
        return ["body: until_call opened | PLAIN", until, plain]

    def opened(self, *, many: bool) -> list[str]:
        """Return the rules of calls after the first `begin`."""
        form, between = self.form, self._spelled(self.form.between)
        if form.listed:
            return [f'opened: " "? "[" call {f"({between} call)*" if many else ""} "]"']
        if not form.begin:
            return ["opened: call"]
        first = self._spelled(form.each or form.begin)
        more = f"({between} {first} marked)*" if many else ""
        each, final = self._spelled(form.each), self._spelled(form.final)
        marked = f"marked: call {self._spelled(form.end)}"
        return [f"opened: {each} marked {more} {final}", marked]

    def call(self, number: int, name: str, schema: dict[str, Any], where: str) -> list[str]:
        """Return the rules of a call of one function."""
        form, own = self.form, f"arguments_{number}"
        begin, end = self._spelled(form.lead), self._spelled(form.tail)
        if form.key:
            lead = json.dumps('{"name": ' + json.dumps(name) + f', "{form.key}": ')
            begin, end = f"{begin} {lead}", f'"}}" {end}'
        else:
            called = f"{self._spelled(form.identified)} {ID}" if form.identified else ""
            begin = f"{begin} {json.dumps(name)} {called} {self._spelled(form.after)}"
        rules = [f"call_{number}: {begin} {own} {end}"]
        if form.parameter is not None:
            return rules + self._parameters(own, schema, where)
        return [*rules, f"{own}: {json_rule(schema, ', ', ': ')}"]

    def _parameters(self, own: str, schema: dict[str, Any], where: str) -> list[str]:
        """Return the rules of arguments that are no JSON, in the order of their properties."""
        how, unnamed = self.form.parameter, [one for one in ELSEWHERE if one in schema]
        assert how is not None, "others have JSON"
        unnamed += [one for one in FREE if schema.get(one)]
        if unnamed:
            raise InvalidInputError(
                f"{where} cannot be followed: the model writes arguments one by one, and "
                f"{unnamed[0]} does not tell their names"
            )
        shared = {key: schema[key] for key in DEFINITIONS if key in schema}
        properties, needed = schema.get("properties", {}), schema.get("required", [])
        properties = {key: {} for key in needed if key not in properties} | properties
        items, rules = [], []
        for place, (key, value) in enumerate(properties.items()):
            rule = f"{own}_{place}"
            items.append(rule if key in needed else f"{rule}?")
            lead = self._spelled(f"{how.open}{key}{how.key_end}{how.value_begin}")
            rules += [f"{rule}: {lead} {rule}_value"]
            rules += self._value(f"{rule}_value", value, schema, shared)
        return [f"{own}: {' '.join(items)}" if items else f'{own}: ""', *rules]

    def _value(
        self, rule: str, value: Any, schema: dict[str, Any], shared: dict[str, Any]
    ) -> list[str]:
        """Return the rules of a value and what stands after it."""
        assert self.form.parameter is not None, "others have JSON"
        close, types = self.form.parameter.close, types_of(value, schema)
        value = value if isinstance(value, dict) else {}
        choices = [one for one in choices_of(value, schema) if one is not None or "null" in types]
        if choices and all(one is None or isinstance(one, str) for one in choices):
            texts = " | ".join(json.dumps("null" if one is None else one) for one in choices)
            return [f"{rule}: ({texts}) {self._spelled(close)}"]
        if types and "string" not in types:
            json_value = json_rule(value | shared, ", ", ": ")
            return [f"{rule}: {rule}_json {self._spelled(close)}", f"{rule}_json: {json_value}"]
        mark, rest = self._spelled(close.strip()), close[len(close.rstrip()) :]
        text, after = f"{rule}_text", self._spelled(rest)
        if mark.startswith('"'):
            return [f"{rule}: {text} {after}", f"{text}[suffix={mark}]: {ANYTHING}"]
        return [f"{rule}: {text} {mark} {after}", f"{text}: {ANYTHING}"]

    def _spelled(self, text: str) -> str:
        """Return a text as Lark has it, with the marks in it that are tokens."""
        parts = [part for part in re.split(f"({MARK.pattern})", text) if part]
        return " ".join(_mark(part, self.tokenizer) for part in parts)


def thoughts_rule(tokenizer: Tokenizer, *, begun: bool) -> str:
    """Return the Lark rule of thoughts before an answer: the rest of them, or perhaps some."""
    close = _mark(CLOSE, tokenizer)
    if close.startswith('"'):
        end, text = "thought", f"thought[suffix={close}]: {ANYTHING}"
    else:
        end, text = f"thought {close}", f"thought: {ANYTHING}"
    rest = f"{end} {SHORT_SPACE}"
    return f"{rest if begun else f'({_mark(OPEN, tokenizer)} {rest})?'}\n{text}"


def _mark(name: str, tokenizer: Tokenizer) -> str:
    """Return a mark as Lark has it: a special token, or text."""
    token = tokenizer.added_id(name)
    return f"<[{token}]>" if token in tokenizer.special_ids else json.dumps(name)
