"""Calls are found in a text however it is cut into pieces, and what is none stays as it is."""

import json
import random

import pytest

from edgegpt.runtime.text.call_forms import HERMES, LLAMA, MISTRAL, form_in
from edgegpt.runtime.text.tool_calls import Calls, ToolCall

NAMES = ["f", "g_1"]
F = '{"name": "f", "arguments": {"a": "}\\\\\\"]</tool_call>", "b": [1, {}]}}'
G = '{"arguments": {}, "name": "g_1"}'
CALLED = ToolCall("f", json.dumps({"a": '}\\"]</tool_call>', "b": [1, {}]}))
OTHER = ToolCall("g_1", "{}")
TAG = "<|python_tag|>"
CASES = [
    (HERMES, f"<tool_call>\n{F}\n</tool_call>", "", [CALLED]),
    (HERMES, f"Well.\n\n<tool_call>{F}</tool_call>\n<tool_call>\n{G}", "Well.", [CALLED, OTHER]),
    (HERMES, f"\n<tool_call>{G}</tool_call>\n so", "\n so", [OTHER]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [ToolCall("f", "{}")]),
    (MISTRAL, f"[TOOL_CALLS] [{F}, {G}]", "", [CALLED, OTHER]),
    (MISTRAL, f"a [TOOL_CALLS][{G}]b", "ab", [OTHER]),
    (LLAMA, F.replace("arguments", "parameters"), "", [CALLED]),
    (LLAMA, f" {TAG}\n{G}; {F} ", "", [OTHER, CALLED]),
    (LLAMA, f"{G} and then", "and then", [OTHER]),
]
PLAIN = [
    (HERMES, "no call <tool_cal> <tool_call"),
    (HERMES, f"<tool_call>\n{F[:-1]}\n</tool_call>"),
    (HERMES, "<tool_call>\n{'name': 'f', 'arguments': {}}\n</tool_call> <tool_call>x"),
    (HERMES, '<tool_call>{"name": "h", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>"),
    (HERMES, "<tool_call>[1]</tool_call>"),
    (HERMES, "  \n"),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "h", "arguments": {}}]'),
    (MISTRAL, "[TOOL_CALLS] []"),
    (MISTRAL, "[TOOL_CALLS]f{}"),
    (LLAMA, f"I call {G}"),
    (LLAMA, '{"name": "f", "age": 3}'),
    (LLAMA, '{"name": "Bob", "parameters": {}}\n'),
    (LLAMA, f'{TAG}f.call(a="b")'),
    (LLAMA, "<|pyt"),
    (LLAMA, '{"name": "f", "parameters": {"a": "'),
]


def read(calls: Calls, text: str, seed: int) -> tuple[str, list[ToolCall]]:
    """Read a text in pieces: whole (0), letter by letter (1), or at random."""
    rng, content, found = random.Random(seed), "", []
    while text:
        size = (len(text), 1)[seed] if seed < 2 else rng.randint(1, 9)
        piece, text = text[:size], text[size:]
        more, told = calls.push(piece)
        content, found = content + more, found + told
    return content + calls.finish(), found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
def test_calls_are_found(form, text, content, calls, seed):
    assert read(Calls(form, NAMES), text, seed) == (content, calls)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("form", "text"), PLAIN)
def test_what_is_no_call_is_content_to_the_letter(form, text, seed):
    assert read(Calls(form, NAMES), text, seed) == (text, [])


def test_content_before_a_call_comes_at_once():
    calls = Calls(HERMES, NAMES)
    assert calls.push("Well, <b")[0] == "Well, <b"
    assert calls.push(" <tool")[0] == ""
    assert calls.push("s>")[0] == " <tools>"


@pytest.mark.parametrize("form", [HERMES, MISTRAL, LLAMA], ids=lambda form: form.name)
@pytest.mark.parametrize("called", [True, False])
def test_endless_white_space_is_not_held_back(form, called):
    calls = Calls(form, NAMES)
    begin = form.begin if called else ""
    found = calls.push(begin)[0] + "".join(calls.push(" " * 16)[0] for _ in range(500))
    assert len(found) > 500 * 16 - 300
    assert found + calls.finish() == begin + " " * 16 * 500


def test_the_first_calls_are_kept_where_there_may_be_no_more():
    text = f"<tool_call>{F}</tool_call><tool_call>{G}</tool_call>"
    assert read(Calls(HERMES, NAMES, most=1), text, 1) == ("", [CALLED])
    assert read(Calls(MISTRAL, NAMES, most=1), f"[TOOL_CALLS][{G}, {F}]", 1) == ("", [OTHER])


def test_arguments_are_json_that_utf8_can_hold():
    half = '{"name": "f", "parameters": {"a": "\\ud83d", "b": "é"}}'
    ((_, arguments),) = Calls(LLAMA, NAMES).push(half)[1]
    assert json.loads(arguments.encode().decode()) == {"a": "\ud83d", "b": "é"}
    ((_, arguments),) = Calls(LLAMA, NAMES).push(half.replace("\\ud83d", ""))[1]
    assert arguments == '{"a": "", "b": "é"}'


def test_json_nested_deep_is_content():
    text = '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 50_000
    assert read(Calls(HERMES, NAMES), text, 0) == (text, [])
    text += "1" + "}" * 50_001 + "</tool_call>"
    assert read(Calls(HERMES, NAMES), text, 0) == (text, [])


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('<tool_call>\\n{"name": <function-name>, "arguments": <args>}\\n</tool_call>', HERMES),
        ("<tool_call>\n<function=name>\n<parameter=a>", None),
        ("<tool_call>{name}\n<arg_key>a</arg_key>", None),
        ("{{ '[TOOL_CALLS] [' }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", None),
        ('respond in the format {"name": function name, "parameters": dictionary}', LLAMA),
        (r"{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' }}", LLAMA),
        ("<|tool_call|>", None),
    ],
)
def test_a_form_is_known_by_what_a_template_says(text, form):
    assert form_in(text) == form
