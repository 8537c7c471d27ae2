"""The command in a process of its own: crowds that do not read or send, signals, kills, ports."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crowds import ENDLESS, SHORT, half_requests, read, slow_readers, text_of
from http_servers import until
from server_processes import HURRIED, Running, process_of

TEMPLATE = b"{% for m in messages %}{{ m.role[0] }}; {{ m.content }}\n{% endfor %}"
BROKEN = """
from edgegpt.errors import EngineError
from edgegpt.runtime.engines.base import State
step = State.step
def fails(self, ids, *rest):  # with a prompt of seven tokens for a start, then with all
    fails.always = fails.always or ids.shape[1] == 3
    if fails.always or ids.shape[1] == 7:
        raise EngineError("the device is gone")
    step(self, ids, *rest)
fails.always = False
State.step = fails
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def hurried(small_bundle: Path, log: Path) -> Iterator[Running]:
    with process_of(small_bundle, log, "--rows", "256", before=HURRIED) as served:
        yield served


def test_two_hundred_who_do_not_read_hold_nobody_up(altered_bundle: Any, log: Path) -> None:
    folder = altered_bundle(files={"chat_template.jinja": TEMPLATE})
    with process_of(folder, log, "--rows", "256", before=HURRIED) as served:
        slow_readers(served)


def test_two_hundred_half_requests_hold_nobody_up(hurried: Running) -> None:
    half_requests(hurried)


def test_who_reads_slowly_gets_the_whole_answer(hurried: Running) -> None:
    """Its texts have ended long before, and the time for a connection without a request is over."""
    many = {"prompt": ["The wind"] * 64, "max_tokens": 30, "logprobs": 5, "seed": 1}
    client = hurried.posted(many, receive_buffer=4096)
    begin, found = time.monotonic(), b""
    while b"\r\n\r\n" not in found:
        found += client.recv(4096)
    head, _, body = found.partition(b"\r\n\r\n")
    (length,) = [int(line.split()[1]) for line in head.splitlines() if b"content-length" in line]
    begin, pause = time.monotonic(), 3.5 / (length / 16384)
    while len(body) < length and (part := client.recv(16384)):
        body += part
        time.sleep(pause)
    assert time.monotonic() - begin > 3.0  # more than the server waits for a request
    assert len(json.loads(body)["choices"]) == 64


def test_a_signal_under_load_lets_all_texts_end(small_bundle: Path, log: Path) -> None:
    bodies = [ENDLESS | {"max_tokens": 1000, "seed": number} for number in range(16)]
    with process_of(small_bundle, log, "--rows", "4") as served, ThreadPoolExecutor(16) as readers:
        expected = text_of(read(served.posted(bodies[7])))
        waiting = served.connection()
        texts = readers.map(read, [served.posted(body) for body in bodies])
        until(lambda: served.taken == 17)  # what has not been read by then would be refused
        assert served.metric("edgegpt_requests_waiting") > 0
        served.process.send_signal(signal.SIGTERM)
        until(lambda: served.ask("/health")[0] == 503)
        assert served.ask("/health")[1] == {"status": "draining"}
        assert served.ask("/v1/completions", SHORT)[0] == 503
        found = [text_of(answer) for answer in texts]
        assert all(len(text) == 1000 for text in found)
        assert found[7] == expected
        code, said = served.ended()
        waiting.close()
    assert code == 0
    assert "Traceback" not in said
    assert sum("1000 tokens" in line and "length" in line for line in said.splitlines()) == 17


@pytest.mark.parametrize("again", [True, False], ids=["a second signal", "time"])
def test_a_drain_that_is_over_ends_texts_that_have_not(
    small_bundle: Path, log: Path, again: bool
) -> None:
    options = "--drain", "60" if again else "0.5"
    with process_of(small_bundle, log, *options) as served:
        client = served.posted(ENDLESS)
        assert client.recv(100)
        served.process.send_signal(signal.SIGINT)
        if again:
            until(lambda: served.ask("/health")[0] == 503)
            served.process.send_signal(signal.SIGINT)
        answer = read(client)
        assert b'"finish_reason":"length"' in answer
        assert text_of(b"data: " + answer.partition(b"data: ")[2])
        code, said = served.ended()
    assert (code, "Traceback" in said) == (0, False)


def test_who_does_not_read_does_not_keep_the_server_from_ending(hurried: Running) -> None:
    slow = [hurried.posted(ENDLESS, receive_buffer=4096) for _ in range(10)]
    until(lambda: hurried.metric("edgegpt_rows_running") == 10)
    hurried.process.send_signal(signal.SIGTERM)
    hurried.process.send_signal(signal.SIGTERM)
    code, said = hurried.ended()
    assert (code, "Traceback" in said) == (0, False)
    for client in slow:
        client.close()


def test_a_second_server_on_a_port_says_so_in_one_sentence(hurried: Running) -> None:
    command = [sys.executable, "-m", "edgegpt", "serve", "no-bundle", "--port", str(hurried.port)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1, port {hurried.port}: Address already in use" in line
    assert hurried.ask("/v1/completions", SHORT)[0] == 200


def test_a_kill_leaves_nothing_broken(
    small_bundle: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = contents(small_bundle)
    with process_of(small_bundle, log, "--rows", "4") as served:
        expected = served.ask("/v1/completions", SHORT)[1]["choices"]
        clients = [served.posted(ENDLESS) for _ in range(12)]
        half = served.connection()
        half.sendall(b"POST /v1/completions HTTP/1.1\r\n")
        for client in clients[:4]:
            assert client.recv(100)
        served.process.kill()
        assert served.process.wait() == -signal.SIGKILL
        for client in (*clients, half):
            assert b"[DONE]" not in read(client)  # and who asked notices
    assert contents(small_bundle) == files
    with process_of(small_bundle, log, "--port", str(served.port)) as again:
        assert again.port == served.port
        assert again.ask("/v1/completions", SHORT)[1]["choices"] == expected
    assert "Traceback" not in log.read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_an_engine_that_fails_twice_ends_the_process_with_1(small_bundle: Path, log: Path) -> None:
    with process_of(small_bundle, log, before=HURRIED + BROKEN) as served:
        for _ in range(3):  # the same request again and again, as clients send it, is no breakdown
            status, found, _ = served.ask("/v1/completions", SHORT | {"prompt": [1] * 7})
            assert (status, found["error"]["type"]) == (500, "server_error")
            assert served.ask("/health")[0] == 200
        status, found, _ = served.ask("/v1/completions", SHORT | {"prompt": [1] * 3})
        assert (status, found["error"]["type"]) == (503, "server_error")
        status, found, _ = served.ask("/health")
        assert (status, found["status"]) == (503, "broken")
        assert served.ask("/v1/completions", SHORT)[0] == 503
        code, said = served.ended()
    assert code == 1
    assert said.splitlines()[-1] == "error: the engine broke down: the device is gone"
