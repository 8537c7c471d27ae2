"""Forms of texts that call functions, in a model's own form of calls, perhaps after thoughts."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..text.call_forms import CallForm
from ..text.thoughts import CLOSE, OPEN
from ..text.tokenizer import Tokenizer
from .grammar import Form, json_rule, schema_of

__all__ = ["calls_of", "thoughts_rule"]

ANY_OBJECT = {"type": "object"}
ANYTHING = r"/(?s:.*)/"
NO_OBJECT = r"/(?s:\s*[^\s{].*)?/"
SHORT_SPACE = r"/[ \n]{0,2}/"


def calls_of(
    form: CallForm,
    functions: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    many: bool,
    forced: bool = True,
) -> Form:
    """Return the form of texts that are a call of one of the functions, or of `many`.

    Args:
        form: how the model writes calls.
        functions: the schema of the arguments by the name of each; names are plain words.
        tokenizer: its tokens for marks are used where it has some.
        many: allow several calls, but not where a call has no mark.
        forced: False: a text may also have no call, or begin with other things.

    Raises:
        InvalidInputError: if a schema cannot be followed.
    """
    names = " | ".join(f"call_{number}" for number in range(len(functions)))
    lines = [_body(form, tokenizer, forced=forced), _opened(form, tokenizer, many=many)]
    lines.append(f"call: {names}")
    for number, (name, schema) in enumerate(functions.items()):
        lead = '{"name": ' + json.dumps(name) + f', "{form.key}": '
        where = f"the parameters of {name}"
        own = ANY_OBJECT | schema_of(schema, where)
        Form(own, name=where)  # or the complaint would be about the whole grammar
        arguments = json_rule(own, ", ", ": ")
        lines += [
            f'call_{number}: {json.dumps(lead)} arguments_{number} "}}"',
            f"arguments_{number}: {arguments}",
        ]
    return Form(rules="\n".join(lines) + "\n", name="tools")


def _opened(form: CallForm, tokenizer: Tokenizer, *, many: bool) -> str:
    """Return the Lark rule of calls after the first `begin`."""
    begin, between = _mark(form.begin, tokenizer), json.dumps(form.between)
    if form.listed:
        return f'opened: " "? "[" call {f"({between} call)*" if many else ""} "]"'
    if not form.begin:
        return "opened: call"
    more = f"({between} {begin} marked)*" if many else ""
    return f'opened: marked {more}\nmarked: "\\n" call "\\n" {_mark(form.end, tokenizer)}'


def _body(form: CallForm, tokenizer: Tokenizer, *, forced: bool) -> str:
    """Return the Lark rule of the whole text; if calls are not `forced`, content may be there."""
    begin = _mark(form.begin, tokenizer)
    if forced:
        return f"body: {begin} opened" if form.begin else "body: opened"
    if not form.begin:
        before = f"{_mark(form.optional, tokenizer)}?"
        return f"body: {before} opened | PLAIN\nPLAIN: {NO_OBJECT}"
    plain = f"PLAIN: {ANYTHING} & ~/(?s:.*){re.escape(form.begin)}(?s:.*)/"
    if begin.startswith('"'):
        return f"body: until_call opened | PLAIN\nuntil_call[suffix={begin}]: {ANYTHING}\n{plain}"
    return f"body: PLAIN {begin} opened | PLAIN\n{plain}"


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
