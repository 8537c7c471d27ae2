"""A server in a thread of the test, and clients that misbehave."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from edgegpt import LanguageModel
from edgegpt.runtime.generation.prefix_store import PrefixStore
from edgegpt.runtime.server import run as running
from edgegpt.runtime.server.app import application
from edgegpt.runtime.server.service import Limits, Service

__all__ = ["SOON", "Served", "serving", "until"]

SOON = 120.0  # seconds; a failure, not a measure: other work may have the processors


def until(holds: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


@dataclass
class Served:
    """A server that runs."""

    service: Service | None  # None: it runs in another process
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON or text, and headers of an answer; a body makes it a POST."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        own = {"Content-Type": "application/json", **(headers or {})}
        try:
            with urlopen(Request(self.url + path, data, own), timeout=SOON) as answer:
                status, text, found = answer.status, answer.read(), dict(answer.headers)
        except HTTPError as error:
            status, text, found = error.code, error.read(), dict(error.headers)
        try:
            return status, json.loads(text), found
        except ValueError:
            return status, text.decode(), found

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers of /metrics at one moment."""
        lines = [line.split() for line in self.ask("/metrics")[1].splitlines()]
        return {name: float(value) for name, value, *more in lines if not more}

    def metric(self, name: str) -> float:
        """Return a number of /metrics, 0 if it is not there."""
        return self.metrics.get(name, 0.0)

    def connection(self, receive_buffer: int | None = None) -> socket.socket:
        """Return an open connection."""
        found = socket.socket()
        if receive_buffer is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        found.settimeout(SOON)
        found.connect(("127.0.0.1", self.port))
        return found

    def posted(self, body: Any, path: str = "/v1/completions", **how: Any) -> socket.socket:
        """Return a connection on which a text was asked for."""
        found, data = self.connection(**how), json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        found.sendall(head.encode() + data)
        return found

    @property
    def idle(self) -> bool:
        """Whether no text is written or waits."""
        return self.service.scheduler.running == self.service.scheduler.waiting == 0


@contextmanager
def serving(
    model: LanguageModel,
    *,
    rows: int = 4,
    queue: int = 256,
    limits: Limits | None = None,
    store: PrefixStore | None = None,
    **guard: Any,
) -> Iterator[Served]:
    """Serve a model under the name "tiny" until the block ends."""
    settings = {"steady": False, "limits": limits, "store": store}
    service = Service(model, "tiny", rows=rows, queue=queue, **settings)
    place = running.Place(port=0, drain=5)
    listening = running.listen(place)
    ready, servers = threading.Event(), []

    class Seen(running._Server):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            servers.append(self)

    original, running._Server = running._Server, Seen
    app = application(service, **guard)
    thread = threading.Thread(
        target=running.run, args=(app, service, place, listening, ready.set), daemon=True
    )
    thread.start()
    assert ready.wait(SOON)
    running._Server = original
    try:
        yield Served(service, listening.getsockname()[1])
    finally:
        servers[0].should_exit = True
        thread.join(SOON)
        assert not thread.is_alive()
