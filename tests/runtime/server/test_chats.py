"""Chats: what the template is told, thoughts apart from the answer, and contents in parts."""

import json
import logging
import string
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from http_servers import Served, serving, until
from talking import END, byte_tokenizer, say
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import edgegpt
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.chat import Conversation
from edgegpt.runtime.server.talk import Talk

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

# In the manner of models that think; `opens` lets it begin the thoughts itself.
TEMPLATE = (
    "{% for m in messages %}<end>{{ m.role }}: "
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}\n{% endfor %}{% if style %}{{ style }}{% endif %}"
    "{% if add_generation_prompt %}<end>assistant: {% if opens %}<think>\n{% endif %}{% endif %}"
)
OLDER = TEMPLATE.replace("m.reasoning_content", "m.nothing")
ASK = [{"role": "user", "content": "Is it?"}]
WRITTEN = "<think>\nhm, a < b\n</think>\n\nYes."
Opened = Callable[..., AbstractContextManager[tuple[Served, openai.OpenAI]]]


@pytest.fixture
def small_bundle(byte_bundle: Path) -> Path:
    """Let `altered_bundle` be one of these."""
    return byte_bundle


@pytest.fixture(params=[True, False], ids=["marks are special", "marks are plain"])
def special(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def opened(altered_bundle: Any) -> Opened:
    """Return a function that serves the bundle with a template."""

    @contextmanager
    def open_(
        template: str = TEMPLATE, *, special: bool = False
    ) -> Iterator[tuple[Served, openai.OpenAI]]:
        marks = ["<think>", "</think>"]
        tokenizer = byte_tokenizer(marks if special else (), () if special else marks)
        folder = altered_bundle(
            usage=Usage(end_ids=(tokenizer.added_id(END),)),
            files={
                "tokenizer.json": tokenizer.backend.to_str().encode(),
                "chat_template.jinja": template.encode(),
            },
        )
        with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
            url = served.url + "/v1"
            yield served, openai.OpenAI(base_url=url, api_key="none", max_retries=0)

    return open_


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The prompts that the server makes, as they come."""
    found, begin = [], Talk.begin

    def seen(talk: Talk, *given: Any) -> Any:
        begun = begin(talk, *given)
        found.append(begun[0])
        return begun

    monkeypatch.setattr(Talk, "begin", seen)
    return found


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    own = {"model": "tiny", "messages": ASK, "max_tokens": 100}
    return client.chat.completions.create(**(own | settings))


def parts(client: openai.OpenAI, **settings: Any) -> tuple[str, str, str]:
    """Return thoughts, content and reason of a stream."""
    events = [event.choices[0] for event in ask(client, stream=True, **settings)]
    thought = "".join(getattr(one.delta, "reasoning_content", None) or "" for one in events)
    content = "".join(one.delta.content or "" for one in events)
    return thought, content, events[-1].finish_reason


@pytest.mark.parametrize("opens", [True, False])
def test_thoughts_are_apart_from_the_answer(
    opened: Opened, special: bool, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(special=special) as (served, client):
        say(monkeypatch, served.service.tokenizer, WRITTEN[len("<think>") * opens :])
        more = {"extra_body": {"chat_template_kwargs": {"opens": opens}}}
        message = ask(client, **more).choices[0].message
        assert (message.reasoning_content, message.content) == ("hm, a < b", "Yes.")
        assert parts(client, **more) == ("hm, a < b", "Yes.", "stop")
        assert parts(client, stop="a <", **more) == ("hm,", "", "stop")
        cut = ask(client, max_tokens=8, **more).choices[0]
        assert (cut.message.content, cut.finish_reason) == ("", "length")
        assert "hm, a < b".startswith(cut.message.reasoning_content)
        say(monkeypatch, served.service.tokenizer, " Yes <think>.")
        message = ask(client).choices[0].message
        assert message.content == " Yes <think>."
        assert not hasattr(message, "reasoning_content")


def test_a_model_without_marks_of_thoughts_has_none(
    altered_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"chat_template.jinja": b"{{ messages[0].content }}"}
    usage = Usage(end_ids=(byte_tokenizer().added_id(END),))
    with (
        edgegpt.load(altered_bundle(files=files, usage=usage), "cpu", threads=1) as model,
        serving(model) as served,
    ):
        say(monkeypatch, served.service.tokenizer, WRITTEN)
        status, found, _ = served.ask("/v1/chat/completions", {"messages": ASK})
        assert status == 200
        assert found["choices"][0]["message"]["content"] == WRITTEN


def test_earlier_thoughts_are_where_the_template_looks_for_them(
    opened: Opened, prompts: list[Any]
) -> None:
    answer = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm <end>"}
    body = {"messages": [*ASK, answer, *ASK], "max_tokens": 1}
    cuts = "{% set text = m.content.split('</think>')[-1] %}"
    for template, expected in (
        (TEMPLATE, "assistant: <think>hm <end></think>Yes.\n"),
        (OLDER.replace("{{ m.content }}", "{{ m.content }}" + cuts), "<think>\nhm <end>\n</think>"),
        (OLDER.replace("<think>", "").replace("</think>", ""), "assistant: Yes.\n"),
    ):
        with opened(template) as (served, _):
            assert served.ask("/v1/chat/completions", body)[0] == 200
            assert expected in prompts[-1]
            ids = served.service.model.encode_prompt(prompts[-1])
            assert ids.count(byte_tokenizer().added_id(END)) == 4


def test_a_form_holds_for_the_answer_and_not_for_the_thoughts(
    opened: Opened, special: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    with opened(special=special) as (served, client):
        close = served.service.tokenizer.added_id("</think>")
        thoughts = []
        for seed in range(4):
            message = (
                ask(
                    client,
                    response_format=form,
                    seed=seed,
                    logit_bias={str(close): 2.5},
                    max_tokens=600,
                    extra_body={"chat_template_kwargs": {"opens": True}},
                )
                .choices[0]
                .message
            )
            thoughts.append(getattr(message, "reasoning_content", ""))
            assert json.loads(message.content) in ("yes", "no")
        assert len(set(thoughts)) > 1
        plain = ask(client, response_format=form, seed=3).choices[0]
        assert json.loads(plain.message.content) in ("yes", "no")


def test_the_template_gets_its_own_variables(opened: Opened, prompts: list[Any]) -> None:
    with opened() as (served, _):
        body = {"messages": ASK, "max_tokens": 1}
        for given, status, complaint in (
            ({"style": "short<end>"}, 200, ""),
            ({"unknown": [1, {"a": None}]}, 200, ""),
            (3, 400, "it must be an object"),
            ({"messages": []}, 400, "'messages', which is not for the caller"),
            ({"tools": []}, 400, "'tools', which is not for the caller"),
            ({"add_generation_prompt": False}, 400, "which is not for the caller"),
            ({"namespace": 1}, 400, "which is not for the caller"),
            ({"raise_exception": 1}, 400, "which is not for the caller"),
            ({"a": deep(100)}, 400, "more than 60 deep"),
        ):
            found = served.ask("/v1/chat/completions", body | {"chat_template_kwargs": given})
            assert found[0] == status, found
            if status == 400:
                assert complaint in found[1]["error"]["message"]
                assert found[1]["error"]["param"] == "chat_template_kwargs"
        assert "short<end><end>assistant" in prompts[0]
        ids = served.service.model.encode_prompt(prompts[0])
        assert ids.count(byte_tokenizer().added_id(END)) == 2  # the template's own


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def test_a_template_that_fails_does_not_tell_where_it_is(opened: Opened) -> None:
    with opened("{{ messages[0].content + 1 }}") as (served, _):
        status, found, _ = served.ask("/v1/chat/completions", {"messages": ASK})
        assert status == 400
        assert "copy/chat_template.jinja cannot be used" in found["error"]["message"]
        assert str(served.service.model.bundle.folder.parent) not in found["error"]["message"]


def test_contents_in_parts_are_one_text(opened: Opened, prompts: list[Any]) -> None:
    texts = ["Is <e", "nd> it", "?"]
    content = [{"type": "text", "text": text} for text in texts]
    with opened() as (served, client):
        ask(client, messages=[{"role": "user", "content": content}], max_tokens=1)
        assert "user: Is <end> it?\n" in prompts[0]
        ids = served.service.model.encode_prompt(prompts[0])
        assert ids.count(byte_tokenizer().added_id(END)) == 2  # the template's own
        for wrong, field, complaint in (
            ([{"type": "image_url", "image_url": {}}], ".content[0]", "the type 'image_url'; only"),
            ([*content, "x"], ".content[3]", "only 'text' is served"),
            ([{"type": "text", "text": 3}], ".content[0].text", "a string"),
            (3, ".content", "a string, or a list of parts"),
        ):
            body = {"messages": [{"role": "user", "content": wrong}]}
            status, found, _ = served.ask("/v1/chat/completions", body)
            assert (status, found["error"]["param"]) == (400, "messages[0]" + field)
            assert complaint in found["error"]["message"]


def test_logprobs_have_the_bytes_of_each_token(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Größe 🙂"
    with opened() as (served, client):
        say(monkeypatch, served.service.tokenizer, text)
        told = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        assert bytes(byte for one in told[:-1] for byte in one.bytes) == text.encode()
        assert [one.bytes for one in told[-5:-1]] == [[byte] for byte in "🙂".encode()]
        assert told[-5].token == "\ufffd"
        assert (told[-1].token, told[-1].bytes) == (END, list(END.encode()))
        tops = [top for one in told for top in one.top_logprobs]
        assert all(len(top.bytes) <= 1 or top.token.startswith("<") for top in tops)


def test_a_vocabulary_without_quotes_is_refused_before_the_queue(altered_bundle: Any) -> None:
    letters = string.printable.replace('"', "")
    backend = Backend(models.WordLevel({letter: n for n, letter in enumerate(letters)}))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    folder = altered_bundle(files={"tokenizer.json": backend.to_str().encode()})
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        body = {"prompt": "a", "response_format": {"type": "json_object"}}
        status, found, _ = served.ask("/v1/completions", body)
        assert status == 400
        assert 'the vocabulary has no token with "' in found["error"]["message"]
        assert 'edgegpt_tokens_total{kind="new"} 0' in served.ask("/metrics")[1]


def test_a_prompt_beyond_the_context_has_openais_code_whatever_the_overflow(
    opened: Opened,
) -> None:
    with opened() as (served, _):
        context = served.service.model.context
        assert served.service.model.default_overflow == "stop"
        long = "a" * (context + 1)
        for path, body, field in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}, "messages"),
            ("/v1/completions", {"prompt": long}, "prompt"),
            ("/v1/completions", {"prompt": [1] * (context + 1)}, "prompt"),
            ("/v1/chat/completions", {"messages": ASK, "max_tokens": 5, "model": "tiny"}, None),
        ):
            status, found, _ = served.ask(path, body)
            if field is None:
                assert status == 200
                continue
            assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
            assert found["error"]["param"] == field
            assert str(context) in found["error"]["message"]


def test_what_nobody_foresaw_is_500_in_openais_form_and_its_traceback_is_logged(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of a test")

    with opened() as (served, _):
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(served.service, "_submit", broken)
            status, found, _ = served.ask("/v1/chat/completions", {"messages": ASK})
        assert (status, found["error"]["type"]) == (500, "server_error")
        assert "of a test" not in found["error"]["message"]
        until(lambda: "ZeroDivisionError: of a test" in caplog.text)  # after the answer
        assert served.ask("/v1/chat/completions", {"messages": ASK, "max_tokens": 1})[0] == 200


def test_a_conversation_keeps_thoughts_apart(
    opened: Opened, special: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(special=special) as (served, _):
        model = served.service.model
        say(monkeypatch, model.tokenizer, WRITTEN)
        chat = Conversation(model)
        pieces = chat.stream("Is it?")
        assert chat.thoughts is not None
        text = "".join(pieces)
        assert text == WRITTEN
        assert chat.thoughts.push(text) == ("hm, a < b", "Yes.")
        answer = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm, a < b"}
        assert chat.messages == [*ASK, answer]
        said = model.chat(ASK, chat_template_kwargs={"style": "no"})
        assert said.text == WRITTEN
