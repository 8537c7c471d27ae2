"""Two hundred clients that hold a server's connections, and what must be true meanwhile."""

import json
import socket
import time

from http_servers import until
from server_processes import Running

__all__ = [
    *("CROWD", "ENDLESS", "SHORT"),
    *("half_requests", "read", "slow_readers", "text_of"),
]

CROWD, SOME, PROMPT = 200, 50, "The wind"
ENDLESS = {"prompt": PROMPT, "max_tokens": 32768, "seed": 1, "stream": True}
SHORT = {"prompt": PROMPT, "max_tokens": 20, "seed": 1}
TALK = {
    **{"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 32768, "stream": True},
    "logprobs": True,
}
PLAIN, A_TOKEN, A_TOP = 40e6, 600, 150  # bytes of memory for a crowd, and what waits for it
HALVES = [
    b"",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",  # the second one on a connection
]


def read(client: socket.socket) -> bytes:
    """Return all that comes until the connection ends, whichever way."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    client.close()
    return found


def text_of(answer: bytes) -> str:
    """Return the text of a stream that has come to its end."""
    events = [line[6:] for line in answer.decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def slow_readers(served: Running, seconds: float = 300.0, tops: int = 20) -> None:
    """Ask for texts that have no end, and read nothing: all are cut, and others served.

    Each token has the log-probabilities of `tops` tokens; more fill a buffer sooner.
    """
    expected, before = served.ask("/v1/completions", SHORT)[1]["choices"], served.resident
    talk = TALK | {"top_logprobs": tops}
    slow = [served.posted(talk, "/v1/chat/completions", receive_buffer=4096) for _ in range(CROWD)]
    end, rounds = time.monotonic() + seconds, 0
    while served.metric('edgegpt_texts_total{end="cancelled"}') < CROWD:
        assert time.monotonic() < end, "not all were cut"
        assert served.ask("/v1/completions", SHORT)[1]["choices"] == expected
        rounds += 1
    assert rounds > 1
    until(lambda: served.idle)
    grown, tokens = served.resident - before, served.metric('edgegpt_tokens_total{kind="new"}')
    print(f"{CROWD} slow readers: {grown / 1e6:.1f} MB more for {tokens:,.0f} tokens")
    assert grown < PLAIN + tokens * (A_TOKEN + A_TOP * tops)
    while served.descriptors > SOME:
        assert time.monotonic() < end, "not all connections were closed"
        time.sleep(0.05)
    for client in slow:
        client.close()


def half_requests(served: Running, seconds: float = 300.0) -> None:
    """Begin requests, and end none, byte by byte: all are cut, and others served."""
    expected = served.ask("/v1/completions", SHORT)[1]["choices"]
    clients = []
    for number in range(CROWD):
        clients.append(served.connection())
        clients[-1].sendall(HALVES[number % len(HALVES)])
        clients[-1].setblocking(False)
    end, left = time.monotonic() + seconds, list(clients)
    rounds = 0
    while left:
        assert time.monotonic() < end, f"{len(left)} were not cut"
        assert served.ask("/v1/completions", SHORT)[1]["choices"] == expected
        left = [client for client in left if not _is_cut(client)]
        rounds += 1
    assert rounds > 1
    for client in clients:
        client.close()


def _is_cut(client: socket.socket) -> bool:
    """Return whether the server has ended a connection; if not, send another byte."""
    try:
        while client.recv(4096):
            pass
    except BlockingIOError:
        try:
            client.send(b"a")
        except OSError:
            return True
        return False
    except ConnectionResetError:
        pass
    return True
