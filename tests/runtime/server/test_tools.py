"""Functions that the model may call, asked for by OpenAI's own client where it can."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from http_servers import Served, serving
from talking import END, byte_tokenizer, say

import edgegpt
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.text.call_forms import DEEPSEEK

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

SHOWS = {
    "hermes": '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": <name>, "arguments": <object>}]',
    "llama": '{"name": function name, "parameters": dictionary of arguments}',
    "qwen3-coder": "<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>",
    "mistral-args": "[TOOL_CALLS]name[ARGS]{}",
    "deepseek": f"{DEEPSEEK.begin}{DEEPSEEK.each}{DEEPSEEK.lead}name{DEEPSEEK.after}",
}
TEMPLATE = (
    "{% if tools %}FORM{% for tool in tools %}{{ tool.function | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.id }} {{ call.function | tojson }}{% endfor %}"
    "{{ m.tool_call_id }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
MARKS = ("[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", *DEEPSEEK.marks)  # as these models have them
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "of a city; [TOOL_CALLS]",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Köln", "Rom"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
NOTHING = {"type": "object", "additionalProperties": False}
CLOSED = {"type": "function", "function": {"name": "now", "parameters": NOTHING}}
ASK = [{"role": "user", "content": "Weather in Köln?"}]
CALL = '{"name": "get_weather", "ARGUMENTS": {"city": "Köln"}}'
WRITTEN = {
    "hermes": "<tool_call>\n" + CALL.replace("ARGUMENTS", "arguments") + "\n</tool_call>",
    "mistral": "[TOOL_CALLS] [" + CALL.replace("ARGUMENTS", "arguments") + "]",
    "llama": "<|python_tag|>" + CALL.replace("ARGUMENTS", "parameters"),
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n"
    "</function>\n</tool_call>",
    "mistral-args": '[TOOL_CALLS]get_weather[ARGS]{"city": "Köln"}',
    "deepseek": f"{DEEPSEEK.begin}{DEEPSEEK.each}{DEEPSEEK.lead}get_weather{DEEPSEEK.after}"
    f'{{"city": "Köln"}}{DEEPSEEK.tail}{DEEPSEEK.end}{DEEPSEEK.final}',
}


@pytest.fixture
def small_bundle(byte_bundle: Path) -> Path:
    """Let `altered_bundle` be one of these."""
    return byte_bundle


@contextmanager
def opened(altered_bundle: Any, template: str) -> Iterator[tuple[Served, openai.OpenAI]]:
    """Serve the bundle with a template."""
    tokenizer = byte_tokenizer(MARKS, plain=["<tool_call>", "</tool_call>"])
    folder = altered_bundle(
        usage=Usage(end_ids=(tokenizer.added_id(END),)),
        files={
            "tokenizer.json": tokenizer.backend.to_str().encode(),
            "chat_template.jinja": template.encode(),
        },
    )
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        yield served, openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(params=list(SHOWS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(altered_bundle: Any, form: str) -> Iterator[tuple[Served, openai.OpenAI]]:
    with opened(altered_bundle, TEMPLATE.replace("FORM", SHOWS[form])) as found:
        yield found


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    own = {"model": "tiny", "messages": ASK, "tools": [WEATHER, NOW], "max_tokens": 400, "seed": 1}
    return client.chat.completions.create(**(own | settings))


def test_a_call_that_the_model_writes_is_told_as_one(
    server: tuple[Served, openai.OpenAI], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = server
    before = "" if form == "llama" else "Let me see.\n"
    say(monkeypatch, served.service.tokenizer, before + WRITTEN[form])
    found = ask(client, logprobs=True).choices[0]
    (call,) = found.message.tool_calls
    assert found.finish_reason == "tool_calls"
    assert found.message.content == (before.strip() or None)
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    assert (len(call.id), call.id.isalnum()) == (9, True)
    events = list(ask(client, stream=True))
    deltas = [event.choices[0].delta for event in events]
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (call.index, call.type, call.function.name) == (0, "function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    assert "".join(delta.content or "" for delta in deltas) == before.strip()
    assert events[-1].choices[0].finish_reason == "tool_calls"
    assert "TOOL_CALL" not in repr(found.message)
    assert all(event.choices[0].finish_reason is None for event in events[:-1])


def test_the_answer_of_a_tool_goes_to_the_template_as_it_wants_it(
    server: tuple[Served, openai.OpenAI], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = server
    prompts: list[str] = []
    submit = served.service._submit
    monkeypatch.setattr(
        served.service,
        "_submit",
        lambda texts, asked: prompts.extend(texts) or submit(texts, asked),
    )
    say(monkeypatch, served.service.tokenizer, WRITTEN[form])
    message = ask(client).choices[0].message
    name = message.tool_calls[0].id
    messages = [*ASK, message, {"role": "tool", "tool_call_id": name, "content": "12 °C"}]
    say(monkeypatch, served.service.tokenizer, "12 °C.")
    found = ask(client, messages=messages).choices[0]
    assert (found.message.content, found.finish_reason) == ("12 °C.", "stop")
    assert found.message.tool_calls is None
    call = '{"name": "get_weather", "arguments": {"city": "Köln"}}'
    assert f"{name} {call}" in prompts[1]
    assert f"tool: 12 °C{name}\n" in prompts[1]
    mark = prompts[0].index("of a city; [TOOL_CALLS]") + len("of a city; ")
    assert (mark, mark + len("[TOOL_CALLS]")) in prompts[0].quoted


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_model_that_has_to_call_a_function_does(
    server: tuple[Served, openai.OpenAI], choice: str
) -> None:
    _, client = server
    named = {"type": "function", "function": {"name": choice}}
    for seed in (1, 2):
        found = ask(
            client,
            tools=[WEATHER, CLOSED],
            tool_choice="required" if choice == "required" else named,
            parallel_tool_calls=False,
            temperature=1.5,
            seed=seed,
        ).choices[0]
        (call,) = found.message.tool_calls
        assert found.finish_reason == "tool_calls"
        assert found.message.content is None
        assert call.function.name == choice or choice == "required"
        if call.function.name == "get_weather":
            assert json.loads(call.function.arguments)["city"] in ("Köln", "Rom")


def test_strict_functions_are_called_as_their_schemas_say_or_not_at_all(
    server: tuple[Served, openai.OpenAI], form: str
) -> None:
    """The official helper for streams takes strict functions only."""
    _, client = server
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    start = WRITTEN[form].partition("Köln")[0].removesuffix('"')
    tokenizer = byte_tokenizer(MARKS, plain=["<tool_call>", "</tool_call>"])
    leads = tokenizer.encode(start)
    with pytest.MonkeyPatch.context() as patch:
        choose = Rules.choose

        def led(rules: Rules, text: Any, logits: Any) -> Any:
            if len(text.new_ids) < len(leads):
                logits = logits.copy()
                logits[leads[len(text.new_ids)]] += 1000
            return choose(rules, text, logits)

        patch.setattr(Rules, "choose", led)
        asked = {"model": "tiny", "messages": ASK, "tools": [strict], "seed": 5}
        with client.chat.completions.stream(**asked, parallel_tool_calls=False) as stream:
            stream.until_done()
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
        assert call.function.parsed_arguments["city"] in ("Köln", "Rom")
    found = ask(client, tools=[strict], seed=5, max_tokens=5).choices[0]
    assert found.message.content
    assert found.message.tool_calls is None


def test_several_calls_are_numbered_and_parallel_tool_calls_false_keeps_the_first(
    altered_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(altered_bundle, TEMPLATE.replace("FORM", SHOWS["hermes"])) as (served, client):
        other = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
        say(monkeypatch, served.service.tokenizer, WRITTEN["hermes"] + "\n" + other + "\n")
        found = ask(client, n=2)
        for choice in found.choices:
            names = [call.function.name for call in choice.message.tool_calls]
            assert names == ["get_weather", "now"]
        ids = {call.id for choice in found.choices for call in choice.message.tool_calls}
        assert len(ids) == 4
        events = ask(client, n=2, stream=True)
        told = [
            (event.choices[0].index, call.index, call.function.name)
            for event in events
            for call in event.choices[0].delta.tool_calls or []
        ]
        assert sorted(told) == [
            (choice, number, name)
            for choice in (0, 1)
            for number, name in enumerate(["get_weather", "now"])
        ]
        (call,) = ask(client, parallel_tool_calls=False).choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        cut = ask(client, max_tokens=20).choices[0]  # within the call
        assert (cut.finish_reason, cut.message.tool_calls) == ("length", None)
        assert cut.message.content == WRITTEN["hermes"][: len("<tool_call>") + 19]


def test_what_is_no_call_is_content_and_none_means_none(
    altered_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(altered_bundle, TEMPLATE.replace("FORM", SHOWS["hermes"])) as (served, client):
        for text in (
            "<tool_call>\n{'name': 'get_weather', 'arguments': {}}\n</tool_call>",
            '<tool_call>\n{"name": "delete", "arguments": {}}\n</tool_call>',
            "<tool_call>\nget_weather\n</tool_call> <tool_call>",
        ):
            say(monkeypatch, served.service.tokenizer, text)
            found = ask(client).choices[0]
            assert (found.message.content, found.finish_reason) == (text, "stop")
            pieces = [one.choices[0].delta.content or "" for one in ask(client, stream=True)]
            assert "".join(pieces) == text
        say(monkeypatch, served.service.tokenizer, WRITTEN["hermes"])
        found = ask(client, tool_choice="none").choices[0]
        assert (found.message.content, found.message.tool_calls) == (WRITTEN["hermes"], None)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{% for m in messages %}{{ m.content }} [TOOL_CALLS]{% endfor %}",
            "does not mention them",
        ),
        ("{# tools #}{{ messages[0].content }} <tool_call>", "does not mention them"),
        ("{{ tools }} <function=f>{{ messages[0].content }}", "a form of calls that"),
        ("{{ tools }} {{ messages[0].content }}", "a form of calls that"),
    ],
)
def test_a_template_without_tools_refuses_them_by_name(
    altered_bundle: Any, template: str, why: str
) -> None:
    with opened(altered_bundle, template) as (served, client):
        with pytest.raises(openai.BadRequestError, match=why) as refused:
            ask(client)
        assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
        assert ask(client, tool_choice="none", max_tokens=1).choices[0].finish_reason == "length"
        assert served.idle


def test_what_is_wrong_with_tools_is_named(altered_bundle: Any) -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    bad_schema = {"type": "object", "properties": {"a": {"type": "nothing"}}}
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{"}}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"tools": 3}, "tools", "a list of functions"),
        ({"tools": [3]}, "tools[0]", "a function such as"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "a function such as"),
        ({"tools": [NOW] * 10_000}, "tools", "10,000 functions; there may be 128"),
        ({"tools": [NOW, NOW]}, "tools", "the function now twice"),
        *(
            ({"tools": [function(name=name)]}, "tools[0].function.name", "up to 64 letters")
            for name in ('a"b', "a\nb", "", "é", "a" * 65, None, ["a"])
        ),
        ({"tools": [function(parameters=3)]}, "tools[0].function.parameters", "a JSON schema"),
        (
            {"tools": [function(parameters={"type": "string"})]},
            "tools[0].function.parameters",
            "a JSON schema of an object",
        ),
        ({"tools": [function(description=3)]}, "tools[0].function.description", "a string"),
        ({"tools": [function(parameters=deep)]}, "tools", "more than 60 deep"),
        (
            {"tools": [function(parameters=bad_schema)], "tool_choice": "required"},
            "tools",
            "the parameters",
        ),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "that tools do not have"),
        ({"tool_choice": "always"}, "tool_choice", '"none", "auto", "required"'),
        (
            {"tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice",
            "that tools do not have",
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "true or false"),
        ({"messages": [*ASK, {"role": "tool", "content": "x"}]}, "messages[1]", "tool_call_id"),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": [call]}]},
            "messages[1].tool_calls[0].function.arguments",
            "the JSON of an object",
        ),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": ["x"]}]},
            "messages[1].tool_calls[0]",
            "a call such as",
        ),
    ]
    with opened(altered_bundle, TEMPLATE.replace("FORM", SHOWS["hermes"])) as (served, _):
        for changes, field, complaint in cases:
            body = {"messages": ASK, "tools": [WEATHER, NOW], "max_tokens": 1} | changes
            status, found, _ = served.ask("/v1/chat/completions", body)
            assert status == 400, (changes, found)
            assert complaint in found["error"]["message"]
            assert found["error"]["param"] == field, found
            assert served.idle


def test_an_answer_has_its_form_where_a_model_may_also_call_functions(
    server: tuple[Served, openai.OpenAI], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with OpenAI: the form is that of the content, and a call has none."""
    served, client = server
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    own = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = {"tools": [WEATHER, CLOSED], "response_format": own, "parallel_tool_calls": False}
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        found = ask(client, **asked, tool_choice=choice).choices[0]
        assert found.message.content is None
        assert found.message.tool_calls
    found = ask(client, **asked, tool_choice="none").choices[0]
    assert json.loads(found.message.content)["n"] in (1, 2)
    if form == "llama":
        with pytest.raises(openai.BadRequestError, match="writes calls as JSON, without a mark"):
            ask(client, **asked)
        return
    first = WRITTEN[form]  # a mark may be a token, or letters
    brace, mark, letter = (
        served.service.tokenizer.encode(one)[0] for one in ("{", first, first[0])
    )
    for seed in range(3):
        found = ask(client, **asked, seed=seed, logit_bias={mark: -100, letter: -100}).choices[0]
        assert json.loads(found.message.content)["n"] in (1, 2)
        assert (found.finish_reason, found.message.tool_calls) == ("stop", None)
    found = ask(client, **asked, logit_bias={brace: -100}).choices[0]
    assert (found.finish_reason, found.message.content) == ("tool_calls", None)
    assert {call.function.name for call in found.message.tool_calls} <= {"get_weather", "now"}


def function(**parts: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **parts}}


def test_a_recursive_schema_is_followed(altered_bundle: Any) -> None:
    tree = {"$ref": "#/$defs/tree"}
    schema = {
        "properties": {"tree": tree},
        "required": ["tree"],
        "additionalProperties": False,
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"left": tree, "right": tree},
                "additionalProperties": False,
            }
        },
    }
    with opened(altered_bundle, TEMPLATE.replace("FORM", SHOWS["llama"])) as (_, client):
        tools = [function(parameters=schema, strict=True)]
        brace = str(byte_tokenizer().encode("}")[0])
        found = ask(
            client, tools=tools, tool_choice="required", logit_bias={brace: 4}, seed=3
        ).choices[0]
        (call,) = found.message.tool_calls
        assert set(json.loads(call.function.arguments)["tree"]) <= {"left", "right"}
