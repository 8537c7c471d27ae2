"""Many clients, clients that leave or wait, and what may not ask: nobody hurts another."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from http_servers import SOON, Served, serving, until

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.server import answers
from edgegpt.runtime.server import run as running
from edgegpt.runtime.server.app import application
from edgegpt.runtime.server.service import Limits, Service

PROMPT, ENDLESS = "The wind", {"prompt": "The wind", "max_tokens": 32768, "seed": 1}


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


def streamed(served: Served, body: dict[str, Any]) -> str:
    """Return the text of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    head = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}), head)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = answer.read().decode().splitlines()
    connection.close()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(one)["choices"][0]["text"] for one in events)


def test_many_streams_at_once_are_each_what_they_are_alone(model: LanguageModel) -> None:
    bodies = [
        {"prompt": PROMPT[: 2 + number % 7], "max_tokens": 50, "temperature": 0.9, "seed": number}
        for number in range(64)
    ]
    alone = [
        model.generate(one["prompt"], max_new_tokens=50, temperature=0.9, seed=one["seed"]).text
        for one in bodies
    ]
    with serving(model, rows=6) as served, ThreadPoolExecutor(64) as clients:
        found = list(clients.map(lambda body: streamed(served, body), bodies))
    assert found == alone


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_free_their_rows_and_places(model: LanguageModel, stream: bool) -> None:
    with serving(model, rows=2) as served:
        clients = [served.posted(ENDLESS | {"stream": stream}) for _ in range(5)]
        until(lambda: served.service.scheduler.running == 2)
        until(lambda: served.service.scheduler.waiting == 3)
        clients.pop(0).close()  # one that is written
        clients.pop().close()  # one that waits
        until(lambda: served.service.scheduler.waiting == 1)
        assert served.service.scheduler.running == 2
        for client in clients:
            client.close()
        until(lambda: served.idle)
        until(lambda: served.service.metrics.ends["cancelled"] == 5)
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 200


def test_a_full_queue_says_when_to_come_again(model: LanguageModel) -> None:
    with serving(model, rows=1, queue=1) as served:
        clients = [served.posted(ENDLESS)]
        until(lambda: served.service.scheduler.running == 1)
        clients.append(served.posted(ENDLESS))
        until(lambda: served.service.scheduler.waiting == 1)
        status, found, headers = served.ask("/v1/completions", {"prompt": PROMPT})
        assert (status, headers["retry-after"]) == (429, "1")
        assert found["error"]["type"] == "rate_limit_error"
        status, found, _ = served.ask("/v1/completions", {"prompt": PROMPT, "n": 2})
        assert status == 429
        for client in clients:
            client.close()
        until(lambda: served.idle)


def test_a_client_that_does_not_read_is_cut(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PATIENCE", 0.3)
    with serving(model) as served:
        slow = [
            served.posted(ENDLESS | {"stream": True, "logprobs": 5}, receive_buffer=4096)
            for _ in range(3)
        ]
        until(lambda: served.service.scheduler.running == 3)
        assert streamed(served, {"prompt": PROMPT, "max_tokens": 20})  # others go on
        until(lambda: served.idle)
        for client in slow:
            client.close()


def test_requests_that_do_not_become_whole_are_cut(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HALF_PATIENCE", 1.0)
    with serving(model, limits=Limits(seconds=1.0)) as served:
        begun = [served.connection() for _ in range(50)]
        for client in begun:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        half = served.connection()
        half.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{"
        )
        assert served.ask("/v1/completions", {"prompt": PROMPT})[0] == 200
        for client in begun:
            assert client.recv(100) == b""
        assert half.recv(1000).startswith(b"HTTP/1.1 408")


def test_only_known_hosts_and_pages_may_ask(model: LanguageModel) -> None:
    with serving(model, hosts=["device.local"], origins=["https://app.example"]) as served:
        for host in ("localhost", "127.0.0.1:1", "[::1]:8000", "192.168.0.7", "DEVICE.local:80"):
            assert served.ask("/health", headers={"Host": host})[0] == 200
        for host in ("evil.example", "localhost.evil.example", ""):
            status, found, _ = served.ask("/health", headers={"Host": host})
            assert status == 403
            assert "--allow-host" in found["error"]["message"]
        own = f"http://127.0.0.1:{served.port}"
        for origin in (own, "https://app.example"):
            assert served.ask("/health", headers={"Origin": origin})[0] == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            assert served.ask("/v1/models", headers={"Origin": origin})[0] == 403
        allowed = served.ask("/health", headers={"Origin": "https://app.example"})[2]
        assert allowed["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-origin" not in served.ask("/health")[2]


def test_a_key_guards_everything_but_health(model: LanguageModel) -> None:
    with serving(model, keys=["secret", "other"]) as served:
        assert served.ask("/health")[0] == 200
        for path, body in (
            ("/v1/models", None),
            ("/metrics", None),
            ("/tokenize", {"content": "a"}),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                status, found, _ = served.ask(path, body, headers)
                assert status == 401
                assert found["error"]["code"] == "invalid_api_key"
            for key in ("secret", "other"):
                assert served.ask(path, body, {"Authorization": f"Bearer {key}"})[0] == 200


def test_certificates_that_are_none_are_named(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    place = running.Place(port=0, certificate=tmp_path / "bad.pem", key=tmp_path / "bad.pem")
    service = Service(model, "tiny", rows=1, queue=1, steady=False)
    with pytest.raises(InvalidInputError, match=r"bad\.pem are no certificate and its key"):
        running.run(application(service), service, place, running.listen(place))


def test_texts_of_megabytes_hold_nobody_up(model: LanguageModel) -> None:
    with serving(model) as served:
        status, found, _ = served.ask("/v1/completions", {"prompt": "a" * 1_900_000})
        assert status == 400
        assert "1,900,000 characters" in found["error"]["message"]
        assert served.ask("/tokenize", {"content": "a" * 1_900_000})[0] == 400


def test_a_request_for_more_texts_than_there_can_be_is_refused(model: LanguageModel) -> None:
    with serving(model, rows=2, queue=0) as served:
        assert served.ask("/v1/completions", {"prompt": PROMPT, "n": 2})[0] == 200
        status, found, _ = served.ask("/v1/completions", {"prompt": PROMPT, "n": 3})
        assert status == 400
        assert "has 3 texts; this server takes 2" in found["error"]["message"]


def test_a_port_in_use_is_told(model: LanguageModel) -> None:
    with (
        serving(model) as served,
        pytest.raises(InvalidInputError, match=f"port {served.port}: Address already in use"),
    ):
        running.listen(running.Place(port=served.port))
    with pytest.raises(InvalidInputError, match=r"cannot listen on no\.such\.host"):
        running.listen(running.Place("no.such.host", 0))


@pytest.mark.parametrize(("system", "shared"), [("linux", True), ("win32", False)])
def test_a_port_is_never_taken_by_a_second_server(
    monkeypatch: pytest.MonkeyPatch, system: str, shared: bool
) -> None:
    """Windows shares a port where SO_REUSEADDR is set; others let a new server follow an old."""
    monkeypatch.setattr(running.sys, "platform", system)
    with running.listen(running.Place(port=0)) as found:
        assert bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) == shared


def test_signals_that_come_while_others_are_heard_do_no_harm(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a supervisor and its group send them: one interrupts the handler of another."""
    service = Service(model, "tiny", rows=1, queue=1, steady=False)
    server = running._Server(uvicorn.Config(lambda: None), service, 5.0)
    drains: list[float] = []
    monkeypatch.setattr(server, "_end", drains.append)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        server.handle_exit(signal.SIGTERM, None)
        thread.start()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGTERM, None)
    until(lambda: len(drains) == 3)
    assert sorted(drains) == [0.0, 0.0, 5.0]
    service.scheduler.close()


def test_a_signal_lets_texts_end_and_the_process_with_0(small_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgegpt", "serve", str(small_bundle), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", "1", "--name", "tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("tiny at http://127.0.0.1:")
        port = int(line.split("/v1")[0].rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port), timeout=SOON)
        body = json.dumps({"prompt": PROMPT, "max_tokens": 2000, "seed": 1}).encode()
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        until(lambda: Served(None, port).metric("edgegpt_rows_running") == 1)
        process.send_signal(signal.SIGTERM)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"completion_tokens":2000' in answer
        assert process.wait(SOON) == 0
        told = process.stderr.read()
        assert "2000 tokens" in told
        assert PROMPT not in told
    finally:
        process.kill()
