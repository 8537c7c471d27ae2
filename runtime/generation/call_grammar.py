"""Forms of texts that call functions, in a model's own form of calls, perhaps after thoughts."""

import json
from collections.abc import Mapping
from typing import Any

from ..text.call_forms import CallForm
from ..text.thoughts import CLOSE, OPEN
from ..text.tokenizer import Tokenizer
from .grammar import Form, json_rule, schema_of

__all__ = ["calls_of", "thoughts_rule"]

ANY_OBJECT = {"type": "object"}
ANYTHING = r"/(?s:.*)/"
SHORT_SPACE = r"/[ \n]{0,2}/"


def calls_of(
    form: CallForm, functions: Mapping[str, Any], tokenizer: Tokenizer, *, many: bool
) -> Form:
    """Return the form of texts that are a call of one of the functions, or of `many`.

    Args:
        form: how the model writes calls.
        functions: the schema of the arguments by the name of each; names are plain words.
        tokenizer: its tokens for marks are used where it has some.
        many: allow several calls, but not where a call has no mark.

    Raises:
        InvalidInputError: if a schema cannot be followed.
    """
    begin, end = _mark(form.begin, tokenizer), _mark(form.end, tokenizer)
    call = " | ".join(f"call_{number}" for number in range(len(functions)))
    one = f"({call})" if form.listed or not form.begin else f'{begin} "\\n" ({call}) "\\n" {end}'
    more = f" ({json.dumps(form.between)} one)*" if many and form.begin else ""
    body = f"one{more}"
    if form.listed:
        body = f'{begin} " "? "[" {body} "]"'
    lines = [f"body: {body}", f"one: {one}"]
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
