"""examples/serve/nginx.conf, before two servers: nothing is held back, and nothing is lost."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from environments import ROOT
from http_servers import SOON, Served, until
from serve_processes import EDGEGPT, ServeProcess, serve_process

import edgegpt

pytest.importorskip("uvicorn", reason="uvicorn is not installed: the extra serve brings it")

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SITE = ROOT / "examples" / "serve" / "nginx.conf"
WHOLE = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors warn;
events {{}}
http {{
    access_log off; {paths}
    add_header X-Upstream $upstream_addr always;
    include {folder}/site.conf;
}}
"""
KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SHORT = {"prompt": "The wind", "max_tokens": 100, "temperature": 0.9}
LONG, ENDLESS = SHORT | {"max_tokens": 4000}, SHORT | {"max_tokens": 32000}

if NGINX is None:
    pytest.skip("nginx is not installed: apt install nginx", allow_module_level=True)


class Balancer(Served):
    """nginx, and how it was asked."""

    def __init__(self, port: int) -> None:
        super().__init__(None, port)  # type: ignore[arg-type]

    def completion(self, body: dict[str, Any], session: str = "") -> tuple[str, list[int]]:
        """Return the text of a stream that came whole, and the ports of who was asked for it."""
        with self.asked(body, session) as answer:
            text = answer.read().decode()
        assert answer.status == 200, text
        asked = [int(port) for port in re.findall(r":(\d+)", answer.headers["X-Upstream"])]
        events = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert events.pop() == "[DONE]", text[-300:]
        return "".join(json.loads(one)["choices"][0]["text"] for one in events), asked

    @contextmanager
    def asked(
        self, body: dict[str, Any], session: str = "", timeout: float = SOON
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask for a stream and yield the answer, of which nothing has been read.

        `timeout`: seconds that each read from it may take.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        head = {"Content-Type": "application/json"} | ({"X-Session": session} if session else {})
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}), head)
        own = connection.sock
        try:
            answer = connection.getresponse()
            own.settimeout(timeout)
            yield answer
        finally:
            connection.close()


@contextmanager
def balanced(servers: list[ServeProcess], folder: Path, site: str) -> Iterator[Balancer]:
    """Run nginx with the site of the example, on a free port, before these servers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for number, server in enumerate(servers, 11):
        assert f"server 10.0.0.{number}:8000" in site
        site = site.replace(f"10.0.0.{number}:8000", f"127.0.0.1:{server.port}")
    assert "listen 8080;" in site
    (folder / "site.conf").write_text(site.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in KINDS)
    (folder / "nginx.conf").write_text(WHOLE.format(folder=folder, paths=paths))
    command = [NGINX, "-p", folder, "-e", folder / "errors", "-c", folder / "nginx.conf"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found = Balancer(port)
    try:
        until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, process.stderr.read()
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=SOON)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def command(bundle: Path) -> list[str | Path]:
    options = ["--threads", "1", "--name", "model", "--drain", "60", "--rows", "8"]
    return [*EDGEGPT, "serve", bundle, *options]


@pytest.fixture(scope="module")
def servers(small_bundle: Path) -> Iterator[list[ServeProcess]]:
    """Two servers of one bundle."""
    with serve_process(command(small_bundle)) as one, serve_process(command(small_bundle)) as two:
        yield [one, two]


def session_of(server: ServeProcess, balancer: Balancer) -> str:
    """Return a session whose requests this server answers."""
    for number in range(50):
        _, asked = balancer.completion(SHORT | {"max_tokens": 1}, f"session {number}")
        if asked == [server.port]:
            return f"session {number}"
    raise AssertionError("no session of 50 goes to this server")


def test_a_session_stays_with_a_server_and_others_are_spread(
    servers: list[ServeProcess], tmp_path: Path
) -> None:
    with balanced(servers, tmp_path, SITE.read_text()) as balancer:
        for server in servers:
            session = session_of(server, balancer)
            for _ in range(6):
                assert balancer.completion(SHORT, session)[1] == [server.port]
        others = [balancer.completion(SHORT | {"max_tokens": 1})[1] for _ in range(40)]
        assert {port for (port,) in others} == {server.port for server in servers}
        assert balancer.ask("/metrics")[0] == 404
        assert balancer.ask("/v1/models")[1]["data"][0]["id"] == "model"


def test_pieces_of_a_text_are_not_held_back(servers: list[ServeProcess], tmp_path: Path) -> None:
    """What the servers have sent is there, up to the last event, though more will follow."""
    with balanced(servers, tmp_path, SITE.read_text()) as balancer, ExitStack() as at_the_end:
        answer = at_the_end.enter_context(balancer.asked(ENDLESS, timeout=3))
        found = answer.read1(4096)
        for server in servers:
            at_the_end.callback(server.process.send_signal, signal.SIGCONT)
            server.process.send_signal(signal.SIGSTOP)
        with suppress(TimeoutError):
            while piece := answer.read1(65536):
                found += piece
    assert len(found) > 100
    assert found.endswith(b"\n\n")  # nginx's own buffers end anywhere
    assert b"[DONE]" not in found


def test_a_client_who_leaves_ends_the_text_behind_the_balancer(
    servers: list[ServeProcess], tmp_path: Path
) -> None:
    with balanced(servers, tmp_path, SITE.read_text()) as balancer:
        with balancer.asked(ENDLESS) as answer:
            assert answer.readline().startswith(b"data: ")
            assert sum(server.running() for server in servers) == 1
        until(lambda: not any(server.running() for server in servers))


def test_a_server_that_is_drained_loses_no_request(
    servers: list[ServeProcess], small_bundle: Path, tmp_path: Path
) -> None:
    with edgegpt.load(small_bundle, "cpu", threads=1) as model:
        wanted = {"max_new_tokens": 100, "temperature": 0.9}
        expected = [model.generate("The wind", seed=seed, **wanted).text for seed in range(8)]
    with (
        serve_process(command(small_bundle)) as leaving,
        balanced([leaving, servers[0]], tmp_path, SITE.read_text()) as balancer,
    ):
        session = session_of(leaving, balancer)
        with clients(balancer, session) as done, balancer.asked(LONG, session) as answer:
            text = answer.readline()
            leaving.process.terminate()
            until(lambda: leaving.ask("/health")[0] == 503)
            assert leaving.ask("/health")[1] == {"status": "draining"}
            assert servers[0].ask("/health")[0] == 200
            first = len(done)
            until(lambda: len(done) > first + 16)
            text += answer.read()
            assert leaving.process.wait(SOON) == 0
            last = len(done)
            until(lambda: len(done) > last + 16)
    assert text.endswith(b'"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')
    events = re.findall(r"^data: (\{.*)", text.decode(), re.MULTILINE)
    texts = [json.loads(one)["choices"][0]["text"] for one in events]
    assert len("".join(texts)) == LONG["max_tokens"]
    assert [found for _, found, _ in done] == [expected[seed] for seed, _, _ in done]
    ports = [asked for _, _, asked in done]
    assert [leaving.port, servers[0].port] in ports  # refused by one, answered by the other
    assert ports[-1] == [servers[0].port]


@contextmanager
def clients(balancer: Balancer, session: str) -> Iterator[list[tuple[int, str, list[int]]]]:
    """Ask for texts without pause until the block ends; yield the seed and answer of each."""
    ended, done = threading.Event(), []

    def ask(seed: int) -> None:
        while not ended.is_set():
            own = session if seed % 2 else f"{session}, {seed}"
            done.append((seed, *balancer.completion(SHORT | {"seed": seed}, own)))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, seed) for seed in range(8)]
        try:
            yield done
        finally:
            ended.set()
    for one in running:
        one.result()  # raises what went wrong
