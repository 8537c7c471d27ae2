"""Texts that have to be calls are calls of the functions, in the model's form, and can be read."""

import json

import numpy as np
import pytest
from talking import END, byte_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import models

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.generation.call_grammar import calls_of, thoughts_rule
from edgegpt.runtime.generation.grammar import Form, Grammar, Vocabulary
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.text.call_forms import FORMS, GLM, HERMES, LLAMA, QWEN3_CODER, CallForm
from edgegpt.runtime.text.reading import Reader
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.thoughts import Thoughts
from edgegpt.runtime.text.tokenizer import Tokenizer
from edgegpt.runtime.text.tool_calls import Calls, ToolCall

TREE = {"$ref": "#/$defs/tree"}
FUNCTIONS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"enum": ["Köln", "Rom"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "plant": {
        "properties": {"tree": TREE},
        "required": ["tree"],
        "additionalProperties": False,
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"left": TREE, "right": TREE},
                "additionalProperties": False,
            }
        },
    },
}


def written(tokenizer: Tokenizer, form: Form, seed: int, before: str = "") -> str:
    """Write a text of a form from random logits, which begins with `before`."""
    size, end = tokenizer.vocab_size, tokenizer.added_id(END)
    grammar = Grammar(form, Vocabulary(tokenizer, size), frozenset([end]))
    rules = Rules(10**5, 10**4, Sampling(1.0), "stop", 0.0, end_ids={end}, edits=(grammar,))
    text, rng = Text([0], seed=seed, series=0), np.random.default_rng(seed)
    leads = tokenizer.encode(before)
    while text.finish_reason is None:
        logits = rng.normal(size=size).astype(np.float32)
        logits[end] += 1  # texts end at some time
        if len(text.new_ids) < len(leads):
            logits[leads[len(text.new_ids)]] += 1000
        rules.write(text, logits)
    detokenizer = Detokenizer(tokenizer, (), (), tokenizer.special_ids - {end})
    return "".join(map(detokenizer.push, text.new_ids)) + detokenizer.finish()


@pytest.mark.parametrize("special", [True, False], ids=["marks are tokens", "marks are text"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("many", [True, False], ids=["many", "one"])
def test_random_logits_write_calls_that_follow_the_schemas(
    form: CallForm, special: bool, many: bool
) -> None:
    tokenizer = byte_tokenizer(form.marks * special)
    asked = calls_of(form, FUNCTIONS, tokenizer, many=many)
    counts, names = set(), set()
    for seed in range(8):
        text = written(tokenizer, asked, seed)
        reader = Calls(form, FUNCTIONS)
        content, calls = reader.push(text)
        assert content + reader.finish() == ""
        assert calls
        counts.add(len(calls))
        for call in calls:
            value = json.loads(call.arguments)
            names.add(call.name)
            if call.name == "plant":
                assert set(value["tree"]) <= {"left", "right"}
            else:
                assert value["city"] in ("Köln", "Rom")
                assert set(value) <= {"city", "days"}
    assert names == set(FUNCTIONS)
    assert (max(counts) > 1) == (many and form is not LLAMA)


@pytest.mark.parametrize("special", [True, False], ids=["marks are tokens", "marks are text"])
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_thoughts_may_come_before_a_form(special: bool, begun: bool) -> None:
    tokenizer = byte_tokenizer(("<think>", "</think>") * special)
    form = Form({"enum": ["yes"]}).after(thoughts_rule(tokenizer, begun=begun))
    lead = "" if begun else "<think>"
    text = written(tokenizer, form, 1, f"{lead}\nhm <b> </th\n</think>\n\n")
    thoughts = Thoughts(begun=begun)
    assert thoughts.push(text) == ("hm <b> </th", '"yes"')
    if not begun:
        assert written(tokenizer, form, 1, '"') == '"yes"'


@pytest.mark.parametrize("special", [True, False], ids=["marks are tokens", "marks are text"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_where_calls_are_not_forced_there_is_content_or_calls_that_follow_the_schemas(
    form: CallForm, special: bool
) -> None:
    tokenizer = byte_tokenizer(form.marks * special)
    asked = calls_of(form, FUNCTIONS, tokenizer, many=False, forced=False)
    content = "Hi <b [TOOL {}" if form.begin else ""
    begin = content + form.begin + form.each + form.lead + " [" * form.listed
    if form.key:
        wrong = ['{"name": "other"', '{"name": "plant", "' + form.key + '": {"root"']
    else:
        wrong = ["other", "plant " + form.after]
    for start in wrong:
        text = written(tokenizer, asked, 4, begin + start)
        calls = Calls(form, FUNCTIONS)
        told, found = calls.push(text)
        assert (told + calls.finish(), len(found)) == (content, 1)
    plain = "Hello {}"
    assert written(tokenizer, asked, 4, plain).startswith(plain)


@pytest.mark.parametrize("form", FORMS[:-1], ids=lambda form: form.name)  # with marks
def test_a_text_has_the_form_that_is_asked_for_or_calls(form: CallForm) -> None:
    tokenizer = byte_tokenizer(form.marks)
    answer = Form({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    asked = calls_of(form, FUNCTIONS, tokenizer, many=True, forced=False, otherwise=answer)
    reader = Calls(form, FUNCTIONS)
    content, calls = reader.push(written(tokenizer, asked, 1, '{"n":12}'))
    assert isinstance(json.loads(content + reader.finish())["n"], int)
    assert calls == []
    for seed in (1, 2):
        reader = Calls(form, FUNCTIONS)
        content, calls = reader.push(written(tokenizer, asked, seed, form.begin))
        assert content + reader.finish() == ""
        assert calls


@pytest.mark.parametrize("form", [QWEN3_CODER, GLM], ids=lambda form: form.name)
def test_arguments_that_are_text_are_written_and_read_by_their_types(form: CallForm) -> None:
    types = {"text": "string", "count": "integer", "list": "array", "sure": "boolean"}
    choices = {"enum": ["a b", "<c>"]}
    schema = {
        "properties": {key: {"type": one} for key, one in types.items()} | {"choice": choices},
        "required": [*types, "choice", "untold"],
    }
    schema["properties"]["list"]["items"] = {"type": "integer"}
    tokenizer = byte_tokenizer()
    asked = calls_of(form, {"f": schema}, tokenizer, many=False)
    lead, how = f"{form.begin}{form.lead}f{form.after}", form.parameter
    for key, value in (("untold", "12"), ("text", "3\n<b>")):
        lead += f"{how.open}{key}{how.key_end}{how.value_begin}{value}{how.close}"
    for seed in range(3):
        reader = Calls(form, {"f": schema})
        ((_, arguments),) = reader.push(written(tokenizer, asked, seed, lead))[1]
        found = json.loads(arguments)
        assert set(found) == {*types, "choice", "untold"}
        assert [type(found[key]) for key in types] == [str, int, list, bool]
        assert found["choice"] in choices["enum"]
        assert (found["untold"], found["text"]) == (12, "3\n<b>")
    with pytest.raises(InvalidInputError, match=r"the parameters of f cannot .* anyOf does not"):
        calls_of(form, {"f": {"anyOf": [schema]}}, tokenizer, many=True)


@pytest.mark.parametrize("form", [QWEN3_CODER, GLM], ids=lambda form: form.name)
@pytest.mark.parametrize(
    "free",
    [
        {"additionalProperties": {"type": "string"}},
        {"additionalProperties": True},
        {"patternProperties": {"^a": {"type": "integer"}}, "properties": {"b": {}}},
    ],
)
def test_arguments_of_any_name_are_refused_where_each_is_written_by_itself(
    form: CallForm, free: dict[str, object]
) -> None:
    with pytest.raises(InvalidInputError, match=rf"the parameters of f .* {next(iter(free))} does"):
        calls_of(form, {"f": free}, byte_tokenizer(), many=True)
    calls_of(HERMES, {"f": free}, byte_tokenizer(), many=True)
    bare = calls_of(form, {"f": {"type": "object"}}, byte_tokenizer(), many=False)
    calls = Calls(form, {"f": {}})
    assert calls.push(written(byte_tokenizer(), bare, 1))[1] == [ToolCall("f", "{}")]


@pytest.mark.parametrize("form", [QWEN3_CODER, GLM], ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ({"type": ["string", "null"], "enum": ["a b", "c", None]}, {"a b", "c", None}),
        ({"enum": ["c", None]}, {"c", None}),
        ({"$ref": "#/$defs/by_way"}, {"red", "blue"}),
        ({"allOf": [{"$ref": "#/$defs/color"}], "default": "red"}, {"red", "blue"}),
        ({"anyOf": [{"$ref": "#/$defs/color"}, {"type": "null"}]}, {"red", "blue", None}),
        ({"$ref": "#/$defs/one"}, {"x"}),
        ({"type": "string", "enum": ["a", None]}, {"a"}),
    ],
)
def test_texts_are_those_of_an_enum_wherever_it_stands(
    form: CallForm, value: dict[str, object], choices: set[str | None]
) -> None:
    color = {"type": "string", "enum": ["red", "blue"]}
    known = {"color": color, "by_way": {"$ref": "#/$defs/color"}, "one": {"const": "x"}}
    schema = {"properties": {"a": value}, "required": ["a"], "$defs": known}
    tokenizer = byte_tokenizer()
    asked, found = calls_of(form, {"f": schema}, tokenizer, many=False), set()
    for seed in range(12):
        ((_, arguments),) = Calls(form, {"f": schema}).push(written(tokenizer, asked, seed))[1]
        found.add(json.loads(arguments)["a"])
    assert found == choices


def test_thoughts_may_come_before_calls() -> None:
    tokenizer = byte_tokenizer(("<think>", "</think>", *HERMES.marks))
    asked = calls_of(HERMES, FUNCTIONS, tokenizer, many=False)
    form = asked.after(thoughts_rule(tokenizer, begun=False))
    reader = Reader(Thoughts(), Calls(HERMES, FUNCTIONS))
    said = reader.push(written(tokenizer, form, 2, "<think>hm</think>\n\n<tool_call>"))
    assert (said.thought, said.content, len(said.calls)) == ("hm", "", 1)
    assert Calls(HERMES, FUNCTIONS).push(written(tokenizer, form, 2, "<tool_call>"))[1]


def test_a_named_function_is_the_only_one() -> None:
    tokenizer = byte_tokenizer()
    form = calls_of(LLAMA, {"now": {}}, tokenizer, many=True)
    texts = [written(tokenizer, form, seed, '{"name": "now", "parameters": {}}') for seed in (1, 2)]
    assert Calls(LLAMA, {"now": {}}).push(texts[0])[1] == [ToolCall("now", "{}")]
    with pytest.raises(InvalidInputError, match="the parameters of now cannot be followed"):
        calls_of(LLAMA, {"now": {"type": "object", "properties": {"a": 3}}}, tokenizer, many=True)


@pytest.mark.parametrize("schema", [3, "x", None, {"type": "object", "properties": {"a": object}}])
def test_parameters_that_are_no_schema_are_refused_by_the_function_s_name(schema: object) -> None:
    with pytest.raises(InvalidInputError, match="the parameters of now "):
        calls_of(HERMES, {"now": schema}, byte_tokenizer(), many=True)


def test_a_vocabulary_without_quotes_is_refused_at_once() -> None:
    backend = Backend(models.WordLevel({letter: n for n, letter in enumerate("{}[]0123,:")}))
    tokenizer = Tokenizer(backend.to_str())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size)
    for schema in ({"type": "object"}, {}, {"type": "array", "items": {"type": "string"}}):
        with pytest.raises(
            InvalidInputError,
            match='json_schema cannot be followed: the vocabulary has no token with "',
        ):
            Grammar(Form(schema), vocabulary, frozenset())
    numbers = Form({"type": "array", "items": {"type": "integer"}})
    Grammar(numbers, vocabulary, frozenset())
