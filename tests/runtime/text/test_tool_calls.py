"""Calls are found in a text however it is cut into pieces, and what is none stays as it is."""

import json
import random
import time

import pytest

from edgegpt.runtime.text.argument_types import converted
from edgegpt.runtime.text.call_forms import (
    DEEPSEEK,
    DEEPSEEK_31,
    FORMS,
    GLM,
    GLM_DENSE,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_IDS,
    QWEN3_CODER,
    form_in,
)
from edgegpt.runtime.text.tool_calls import Calls, ToolCall

NAMES = {"f": {"properties": {"a": {"type": "string"}}}, "g_1": {}}
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
QWEN = '<tool_call>\n<function=f>\n<parameter=a>\n}\\"]</tool_call>\n</parameter>\n'
QWEN += "<parameter=b>\n[1, {}]\n</parameter>\n</function>\n</tool_call>"
KEYS = '<arg_key>a</arg_key>\n<arg_value>}\\"]</tool_call></arg_value>\n'
KEYS += "<arg_key>b</arg_key>\n<arg_value>[1, {}]</arg_value>\n"
ARGUMENTS = F.partition('"arguments": ')[2][:-1]
CALLS, CALL, ENDS, END = DEEPSEEK.begin, DEEPSEEK.each, DEEPSEEK.final, DEEPSEEK.end
SEPARATOR = DEEPSEEK_31.after
V3 = CALL + "function" + SEPARATOR + "{}\n```json\n{}\n```" + END
CASES += [
    (
        QWEN3_CODER,
        f"Well.\n{QWEN}\n<tool_call>\n<function=g_1>\n</function>\n</tool_call>",
        "Well.",
        [CALLED, OTHER],
    ),
    (QWEN3_CODER, QWEN.replace("\n<", "<").replace(">\n", ">"), "", [CALLED]),
    (GLM, f"<tool_call>f\n{KEYS}</tool_call>\n<tool_call>g_1\n</tool_call>", "", [CALLED, OTHER]),
    (
        GLM_DENSE,
        f"a<tool_call>f{KEYS.replace(chr(10), '')}</tool_call><tool_call>g_1</tool_call>",
        "a",
        [CALLED, OTHER],
    ),
    (MISTRAL_ARGS, f"[TOOL_CALLS]f[ARGS]{ARGUMENTS}[TOOL_CALLS]g_1[ARGS]{{}}", "", [CALLED, OTHER]),
    (MISTRAL_IDS, f"a [TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{ARGUMENTS}", "a", [CALLED]),
    (MISTRAL_IDS, "[TOOL_CALLS]g_1[ARGS]{}", "", [OTHER]),
    (
        DEEPSEEK,
        f"So.{CALLS}{V3.format('f', ARGUMENTS)}\n{V3.format('g_1', '{}')}{ENDS}",
        "So.",
        [CALLED, OTHER],
    ),
    (DEEPSEEK, f"{CALLS}{V3.format('g_1', '{}')}\n", "", [OTHER]),
    (
        DEEPSEEK_31,
        f"{CALLS}{CALL}f{SEPARATOR}{ARGUMENTS}{END}{CALL}g_1{SEPARATOR}{{}}{END}{ENDS}",
        "",
        [CALLED, OTHER],
    ),
]
BAD = f"{CALL}h{SEPARATOR}{{}}{END}"
GOOD = f"{CALL}g_1{SEPARATOR}{{}}{END}"
CASES += [
    (DEEPSEEK_31, f"a{CALLS}{BAD}{GOOD}{GOOD}{ENDS}", f"a{CALLS}{BAD}", [OTHER, OTHER]),
    (DEEPSEEK_31, f"{CALLS}{GOOD}{BAD}\n{GOOD}{BAD}{ENDS}", f"{BAD}{BAD}{ENDS}", [OTHER, OTHER]),
    (DEEPSEEK_31, f"{CALLS}{BAD}{ENDS}{GOOD}", f"{CALLS}{BAD}{ENDS}{GOOD}", []),
    (DEEPSEEK_31, f"{CALLS}{GOOD}{ENDS}{GOOD}", GOOD, [OTHER]),
]
PLAIN = [
    (QWEN3_CODER, QWEN.partition("</function>")[0]),
    (QWEN3_CODER, QWEN.replace("=f>", "=h>")),
    (QWEN3_CODER, QWEN.replace("<parameter=a>", "so: <parameter=a>")),
    (QWEN3_CODER, "<tool_call>\n<function=f{}</function></tool_call>"),
    (GLM, "<tool_call>f g</tool_call> <tool_call>h\n</tool_call> <tool_call>"),
    (GLM, "<tool_call>f\n<arg_key>a</arg_key>\n<arg_valu></tool_call>"),
    (
        MISTRAL_ARGS,
        "[TOOL_CALLS]f{} [TOOL_CALLS]h[ARGS]{} [TOOL_CALLS]f[ARGS][1] [TOOL_CALLS]f[ARGS]",
    ),
    (DEEPSEEK, f"{CALLS}{CALL}f{SEPARATOR}{{}}{END}{ENDS}"),
    (DEEPSEEK_31, f"{CALLS}{ENDS} {CALLS}{CALL}h{SEPARATOR}{{}}{END}{ENDS}"),
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


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
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
        ("<tool_call>\n<function=name>\n<parameter=a>", QWEN3_CODER),
        ("<tool_call>{name}\n<arg_key>a</arg_key>\n<arg_value>", GLM),
        ("<tool_call>{name}<arg_key>a</arg_key><arg_value>", GLM_DENSE),
        ("<function=name>{}</function>", None),
        ("{{ '[TOOL_CALLS] [' }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", MISTRAL_ARGS),
        ("{{ '[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]' }}", MISTRAL_IDS),
        (CALLS + CALL + V3, DEEPSEEK),
        (CALLS + CALL + "name" + SEPARATOR, DEEPSEEK_31),
        ('respond in the format {"name": function name, "parameters": dictionary}', LLAMA),
        (r"{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' }}", LLAMA),
        ("<|tool_call|>", None),
    ],
)
def test_a_form_is_known_by_what_a_template_says(text, form):
    assert form_in(text) == form


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "null", "null"),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": "integer"}, " 12\n", 12),
        ({"type": "integer"}, "12.0", 12),
        ({"type": "integer"}, "twelve", "twelve"),
        ({"type": "integer"}, "1.5", "1.5"),
        ({"type": "number"}, "-1.5e3", -1500.0),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "object"}, '{"a": [1, null]}', {"a": [1, None]}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "3", 3),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "3", "3"),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"$ref": "#/$defs/n"}, "2", 2),
        ({"$ref": "#/$defs/loop"}, "2", 2),
        ({"$ref": 3}, "2", 2),
        ({}, "2", 2),
        (None, "two", "two"),
        ({"type": 3}, "x", "x"),
        ({"anyOf": [{}, {"type": "null"}]}, "12", 12),
        ({"anyOf": [{}, {"type": "null"}]}, "two", "two"),
        ({"anyOf": [{"type": "null"}, {"title": "any"}]}, '{"a": 1}', {"a": 1}),
        ({"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "integer"}]}, "[2]", "[2]"),
        ({"$ref": "#/$defs/tree"}, "2", 2),
        ({"$ref": "#/$defs/tree"}, "[2]", "[2]"),
        ({"allOf": [{"description": "a number"}, {"type": "integer"}]}, "[2]", "[2]"),
        ({"type": "integer"}, '"twelve"', "twelve"),
    ],
)
def test_an_argument_has_the_type_that_its_schema_tells(schema, text, value):
    root = {"$defs": {"n": {"type": "integer"}, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}]}}}
    root["$defs"]["tree"] = {"oneOf": [{"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/n"}]}
    found = converted(text, schema, root)
    assert (found, type(found)) == (value, type(value))


def test_a_schema_that_has_itself_in_it_a_hundred_times_is_read_at_once():
    again = {"$ref": "#/$defs/a"}
    root = {"$defs": {"a": {"anyOf": [dict(again) for _ in range(100)]}}}
    chain = {f"b{n}": {"anyOf": [{"$ref": f"#/$defs/b{n + 1}"}] * 9} for n in range(5_000)}
    begun = time.perf_counter()
    assert converted("2", again, root) == 2
    assert converted("2", {"$ref": "#/$defs/b0"}, {"$defs": chain}) == 2
    assert time.perf_counter() - begun < 1


def test_a_long_argument_is_read_in_a_time_that_grows_with_its_length():
    calls, piece = Calls(GLM, NAMES), "</tool_call> </arg_valu"
    calls.push("<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>")
    for _ in range(3_000):
        assert calls.push(piece) == ("", [])
    ((_, arguments),) = calls.push("</arg_value></tool_call>")[1]
    assert json.loads(arguments) == {"a": piece * 3_000}
