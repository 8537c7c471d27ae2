"""The web service of examples/fastapi: what it streams, and what it does when a client leaves."""

import asyncio
import http.client
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import edgegpt

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install fastapi uvicorn")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install fastapi uvicorn")

FOLDER = Path(__file__).parents[2] / "examples" / "fastapi"
WANTED = {"prompt": "The wind", "max_new_tokens": 40, "temperature": 0.8, "seed": 3}


@contextmanager
def served(bundle: Path) -> Iterator[int]:
    """Serve a bundle as the example's docstring says; yield the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", FOLDER, "app:app", "--port", str(port)]
    process = subprocess.Popen(
        command, env=os.environ | {"BUNDLE": str(bundle)}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Application startup complete" in line:
                break
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=120)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the server does not listen")


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    given = None if body is None else json.dumps(body)
    connection.request(method, path, given, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_streams_refuses_in_one_sentence_and_is_healthy(small_bundle: Path) -> None:
    with edgegpt.load(small_bundle) as lm:
        text = lm.generate(**WANTED).text
        bundle = lm.bundle.manifest.id
    with served(small_bundle) as port:
        assert ask(port, "POST", "/generate", WANTED) == (200, text)
        status, told = ask(port, "POST", "/generate", {"prompt": "snow ☃"})
        assert (status, list(json.loads(told))) == (422, ["detail"])
        assert "☃" in json.loads(told)["detail"]
        for wrong in (
            {},
            {"prompt": ""},
            {**WANTED, "max_new_tokens": 10**9},
            {**WANTED, "seed": -1},
        ):
            assert ask(port, "POST", "/generate", wrong)[0] == 422
        status, told = ask(port, "GET", "/health")
        assert (status, json.loads(told)) == (200, {"bundle": bundle, "busy": False})


class _Client:
    """A client of the app itself, without a server: it leaves after some pieces."""

    def __init__(self, stays_for: int) -> None:
        self.pieces: list[str] = []
        self.stays_for, self.gone = stays_for, asyncio.Event()
        self.asked = False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            body = json.dumps({**WANTED, "max_new_tokens": 10_000})
            return {"type": "http.request", "body": body.encode(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.pieces += [message["body"].decode()] if message.get("body") else []
        if len(self.pieces) >= self.stays_for:
            self.gone.set()


SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/generate",
    "raw_path": b"/generate",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}


def test_a_client_who_leaves_ends_the_text_and_the_next_one_has_its_turn(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE", str(small_bundle))
    example = runpy.run_path(str(FOLDER / "app.py"))
    app, streams = example["app"], []

    async def leave_twice() -> None:
        async with example["lifespan"](app):
            model = app.state.model
            plain = model.stream
            model.stream = lambda **wanted: streams.append(plain(**wanted)) or streams[-1]
            first, second = _Client(stays_for=3), _Client(stays_for=5)
            await asyncio.gather(
                *(app(dict(SCOPE), one.receive, one.send) for one in (first, second))
            )
            await _until(lambda: all(map(_has_result, streams)))
            assert not app.state.turn.locked()
            assert len(first.pieces) < 50
            assert len(second.pieces) < 50

    asyncio.run(asyncio.wait_for(leave_twice(), 60))
    assert len(streams) == 2
    assert all(len(stream.result.token_ids) < 100 for stream in streams)


def _has_result(stream: edgegpt.Stream) -> bool:
    with suppress(edgegpt.InvalidInputError):
        return stream.result.finish_reason == "closed"
    return False


async def _until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_server_whose_bundle_is_missing_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", FOLDER, "app:app", "--port", "0"]
    done = subprocess.run(
        command,
        env=os.environ | {"BUNDLE": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(r"BundleError: no bundle at .*none", done.stderr)
