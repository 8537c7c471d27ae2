"""What clients see of an engine that fails: an error, never an answer that looks whole."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crowds import read
from http_servers import SOON, Served, serving, until

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import EngineError
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.server import run as running

PROMPT, ENDLESS = "The wind", {"prompt": "The wind", "max_tokens": 32768, "seed": 1}
ASK = [{"role": "user", "content": PROMPT}]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections without a request end soon: answers are read until then."""
    monkeypatch.setattr(running, "KEEP_ALIVE", 1)


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


@contextmanager
def failing(model: LanguageModel, patch: pytest.MonkeyPatch, *steps: int) -> Iterator[Served]:
    """Serve a model whose engine fails in these steps, counted from 1."""
    patch.setattr(running, "LAST_WORDS", SOON)
    count = itertools.count(1)

    def fails(call: Any) -> Any:
        def called(*arguments: Any) -> None:
            if next(count) in steps:
                raise EngineError("the device is gone")
            call(*arguments)

        return called

    with serving(model, rows=2) as served:
        kind = type(served.service.scheduler._shared.state)
        patch.setattr(kind, "step", fails(kind.step))
        patch.setattr(kind, "decode", fails(kind.decode))
        yield served


def events(answer: bytes) -> list[str]:
    """Return the events of an answer."""
    return [
        line.removeprefix("data: ") for line in answer.decode().splitlines() if "data: " in line
    ]


def written(found: list[str]) -> str:
    """Return the text in events."""
    choices = [choice for one in found for choice in json.loads(one)["choices"]]
    return "".join(one.get("text") or one.get("delta", {}).get("content", "") for one in choices)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_a_stream_in_which_the_engine_fails_ends_with_the_error_and_others_go_on(
    altered_bundle: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder = altered_bundle(files={"chat_template.jinja": b"{{ messages[0].content }}"})
    body = {"prompt": PROMPT} if "chat" not in path else {"messages": ASK}
    body |= {"max_tokens": 20, "seed": 1, "stream": True, "stream_options": {"include_usage": True}}
    with (
        edgegpt.load(folder, "cpu", threads=1) as model,
        failing(model, monkeypatch, 8) as served,
    ):
        client = served.posted(body, path)
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):  # a whole answer of HTTP
            part = client.recv(65536)
            assert part, "it was cut"
            answer += part
        client.close()
        *texts, last = events(answer)
        assert json.loads(last) == {
            "error": {
                "message": "the device is gone",
                "type": "server_error",
                "param": None,
                "code": None,
            }
        }
        begun = written(texts)
        assert begun
        assert served.ask("/health")[0] == 200
        *again, last = events(read(served.posted(body, path)))
        assert last == "[DONE]"
        assert written(again).startswith(begun)  # what had come by then was right
        assert len(written(again)) > len(begun)
        assert served.service.metrics.ends == {"error": 1, "length": 1}


def test_an_answer_for_which_the_engine_fails_is_an_error_of_the_server(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 20, "seed": 1}
    with failing(model, monkeypatch, 8) as served:
        status, found, _ = served.ask("/v1/completions", body)
        assert (status, found["error"]["type"]) == (500, "server_error")
        assert found["error"]["message"] == "the device is gone"
        assert served.ask("/v1/completions", body)[0] == 200


def test_a_failure_of_one_choice_is_that_of_the_request(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once, and the other choices end with it."""
    write, choices = Rules.write, []

    def fails(rules: Rules, text: Text, logits: Any) -> int:
        choices.append(text)
        if text is not choices[0] and len(text.new_ids) == 5:
            raise RuntimeError("out of range")
        return write(rules, text, logits)

    monkeypatch.setattr(Rules, "write", fails)
    with serving(model, rows=2) as served:
        for stream in (False, True):
            choices.clear()
            answer = read(served.posted(ENDLESS | {"n": 2, "stream": stream}))
            assert answer.startswith(b"HTTP/1.1 200" if stream else b"HTTP/1.1 500")
            assert answer.count(b'"error":') == 1
            assert b"the text could not be written: out of range" in answer
            assert b"[DONE]" not in answer
            until(lambda: served.idle)
        assert served.service.metrics.ends == {"error": 2, "cancelled": 2}


def test_an_engine_that_breaks_down_is_told_and_ends_the_server(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to those who wait, and in streams that have begun."""
    raised: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda found: raised.append(found.exc_value))
    with failing(model, monkeypatch, *range(300, 10**6)) as served:
        streams = [served.posted(ENDLESS | {"stream": True}) for _ in range(2)]
        until(lambda: served.service.scheduler.running == 2)
        waiting = [served.posted(ENDLESS) for _ in range(2)]
        for client in streams:
            *_, last = events(read(client))
            assert (
                "the engine broke down: the device is gone" in json.loads(last)["error"]["message"]
            )
        for client in waiting:
            answer = read(client)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"type":"server_error"' in answer
        status, found, _ = served.ask("/health")
        assert (status, found["status"]) == (503, "broken")
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 503
    until(lambda: raised)
    assert "the engine broke down: the device is gone" in str(raised[0])
