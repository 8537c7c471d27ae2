"""Whatever a client sends gets an answer in OpenAI's form, and the next one is served."""

import json
import string
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crowds import read
from http_servers import serving

import edgegpt
from edgegpt import LanguageModel
from edgegpt.training.char_tokenizer import build_char_tokenizer

PROMPT = "The wind"
TEMPLATE = b"{% for m in messages %}{{ m.role[0] }}; {{ m.content }}\n{% endfor %}"
VALUES = [
    *(True, 0, -1, 1.5, 10**30, -1e308, "", "x", "\ud800", "\0", [], {}, [[]], [1], [-1]),
    *({"a": 1}, {"type": "json_schema", "json_schema": {"schema": {"const": "\ud800"}}}),
    *([{}], [{"role": "user"}], [{"role": 3, "content": []}], [{"role": "user", "content": {}}]),
]
FIELDS = {
    "/v1/completions": ["prompt", "max_tokens", "logprobs", "echo", "suffix", "best_of"],
    "/v1/chat/completions": [
        *("messages", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice"),
        *("functions", "modalities", "audio", "reasoning_effort", "chat_template_kwargs"),
    ],
    "/tokenize": ["content", "add_special"],
    "/detokenize": ["tokens"],
}
SHARED = [
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "logit_bias"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "stream", "stream_options"),
    *("response_format", "ignore_eos", "user", "store", "\ud800", "__class__"),
]
BASES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hay"}], "max_tokens": 2},
    "/tokenize": {"content": PROMPT},
    "/detokenize": {"tokens": [1]},
}


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


def refused(answered: tuple[int, Any, dict[str, str]], status: int = 400) -> str:
    """Return the message of an error in OpenAI's form."""
    found, body, _ = answered
    assert found == status, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    message = body["error"]["message"]
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_any_value_in_any_field_is_served_or_named(altered_bundle: Any, path: str) -> None:
    folder = altered_bundle(files={"chat_template.jinja": TEMPLATE})
    fields = FIELDS[path] + (SHARED if path.startswith("/v1") else [])
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        served_ones = 0
        for field in fields:
            for value in VALUES:
                answered = served.ask(path, BASES[path] | {field: value})
                if answered[0] == 200:
                    served_ones += 1
                else:
                    refused(answered, 404 if field == "model" and type(value) is str else 400)
        assert served_ones > 0
        assert served.idle


def test_a_body_of_10_mb_is_refused_and_its_sender_sees_it(model: LanguageModel) -> None:
    """A client that sends all before it reads sees the answer: the connection isn't reset."""
    body = b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    with serving(model) as served:
        for _ in range(5):
            assert "2,097,152 bytes" in refused(served.ask("/v1/completions", body), 413)
        client = served.connection()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked"
        client.sendall(f"{head}\r\n\r\n".encode())
        endless = (b"100000\r\n" + b"a" * 2**20 + b"\r\n") * 200
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            client.sendall(endless)
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 200


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GARBAGE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100,
    "another protocol": b"EHLO x\r\n\r\n",
    "empty lines": b"\r\n" * 10,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "an endless path": b"GET /" + b"a" * 70_000,
    "a header with a zero": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length below 0": HEAD + b"Content-Length: -1\r\n\r\n{}",
    "an encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "a chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
}


def test_what_is_no_http_is_told_in_openais_form(
    model: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(model) as served:
        for name, sent in GARBAGE.items():
            client = served.connection()
            client.sendall(sent)
            head, _, body = read(client).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400"), name
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, name
        client = served.connection()  # the answer has gone when garbage comes
        client.sendall(HEAD.replace(b"/json", b"/x") + b"Transfer-Encoding: chunked\r\n\r\n")
        assert client.recv(10_000).startswith(b"HTTP/1.1 415")
        client.sendall(b"zz\r\n")
        assert b"400" not in read(client)
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 200
    assert [one for one in caplog.records if one.exc_info] == []


def nested(levels: int) -> dict[str, Any]:
    """Return a schema whose definitions double at each level."""
    found: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, levels):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        found[f"d{level}"] = {"allOf": [inner, {"anyOf": [inner, inner]}]}
    return {"$defs": found, "$ref": f"#/$defs/d{levels - 1}"}


HOSTILE_SCHEMAS: dict[str, dict[str, Any]] = {
    "a pattern of 10**9 letters": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "a pattern with many states": {"type": "string", "pattern": "(.*[ab].{300})+c"},
    "a pattern that looks around": {"type": "string", "pattern": "(?=a)b"},
    "a pattern that is none": {"type": "string", "pattern": "("},
    "a text of a megabyte": {"const": "a" * 10**6},
    "many names": {"type": "object", "required": [f"n{number}" for number in range(50_000)]},
    "many choices": {"enum": [f"{number}" for number in range(50_000)]},
    "10**9 items": {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
    "itself": {"$ref": "#"},
    "one another": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "a page": {"$ref": "http://127.0.0.1:9/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "half a character": {"const": "\ud800"},
    "2**40 ways": nested(40),
    "nothing": {"not": {}},
    "wrong types": {"type": 3, "properties": [], "required": "a"},
    "a large number": {"type": "integer", "minimum": -(10**400), "multipleOf": 10**9 + 7},
}


def asks_for(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a request for JSON of a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"prompt": "a", "max_tokens": 20, "response_format": form}


@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_hostile_schemas_are_answered_while_others_write(altered_bundle: Any, model: Any) -> None:
    letters = '{}[]",:.-+\\' + string.digits + string.ascii_letters
    tokenizer = build_char_tokenizer(letters[: model.vocab_size]).to_str()
    folder = altered_bundle(files={"tokenizer.json": tokenizer.encode()})
    with edgegpt.load(folder, "cpu", threads=1) as able, serving(able) as served:
        plain = {"prompt": "a", "max_tokens": 20, "seed": 1}
        expected = served.ask("/v1/completions", plain)[1]["choices"][0]["text"]
        done, others = threading.Event(), []

        def another() -> None:
            while not done.is_set():
                begin = time.process_time()  # other processes may have the processor, too
                found = served.ask("/v1/completions", plain)[1]["choices"][0]["text"]
                others.append((found, time.process_time() - begin))

        beside = threading.Thread(target=another)
        beside.start()
        outcomes = {}
        for name, schema in HOSTILE_SCHEMAS.items():
            answered = served.ask("/v1/completions", asks_for(schema))
            outcomes[name] = answered[0] if answered[0] == 200 else refused(answered)
        done.set()
        beside.join()
        easy = served.ask("/v1/completions", asks_for({"enum": ["ab"]}))[1]["choices"][0]["text"]
    assert easy == '"ab"'
    assert {text for text, _ in others} == {expected}
    assert max(seconds for _, seconds in others) < 5.0  # nobody is held up
    harmless = {name for name, found in outcomes.items() if found == 200}
    assert harmless <= {name for name in outcomes if "pattern" in name or "items" in name}
    assert "50,000" not in json.dumps(outcomes)  # a complaint does not repeat the schema


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
        "{% include '/etc/passwd' %}",
        "{{",
    ],
)
@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_hostile_templates_end_their_chats_only(altered_bundle: Any, template: str) -> None:
    folder = altered_bundle(files={"chat_template.jinja": template.encode()})
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        for _ in range(2):
            said = refused(served.ask("/v1/chat/completions", BASES["/v1/chat/completions"]))
            assert said.startswith("the chat template: ")
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 200


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"max_tokens": 32768, "n": 33}, "are 1,081,344; there may be 1,048,576"),
        ({"max_tokens": 32768, "n": 6, "logprobs": 5}, "are 1,179,648; there may be 1,048,576"),
    ],
)
def test_what_could_wait_for_a_slow_reader_is_bounded(
    model: LanguageModel, asked: dict[str, int], told: str
) -> None:
    with serving(model) as served:
        answered = served.ask("/v1/completions", {"prompt": PROMPT} | asked)
        assert told in refused(answered)
        assert answered[1]["error"]["param"] == "n"
