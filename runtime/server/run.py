"""Run the application until a signal, or until the engine is broken."""

import asyncio
import contextlib
import math
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import EngineError, InvalidInputError
from .problems import Problem, answer
from .service import Service

__all__ = ["Place", "listen", "run"]

BACKLOG = 2048
SEND_BUFFER = (
    32 * 2**10
)  # bytes in the system; by itself it takes megabytes before a client is slow
LOOKS = 0.5  # seconds between two looks at the scheduler
LAST_WORDS = 2.0  # seconds in which a broken server tells so
HALF_PATIENCE = 10.0  # a request that is not whole at the second look, after 20 s, is cut
LAST_ANSWERS = 5  # seconds for answers whose texts have ended
KEEP_ALIVE = 5.0  # seconds that a connection without a request stays open


@dataclass(frozen=True)
class Place:
    """Where to listen, and how long texts may go on after a signal."""

    host: str = "127.0.0.1"
    port: int = 8000
    drain: float = 30.0
    certificate: Path | None = None
    key: Path | None = None


class PatientProtocol(H11Protocol):
    """Cuts connections whose request does not become whole; uvicorn waits for ever.

    A connection that is being closed has as long as its reader goes on taking what is left. What
    is no HTTP is told in OpenAI's form.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to watch."""
        super().connection_made(transport)
        self._last: object = self
        self._unread = math.inf
        self._timer = self.loop.call_later(HALF_PATIENCE, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless the answer to what came before is under way."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            told = answer(Problem("the request is not valid HTTP/1.1, or lacks its Host"))
            headers = [*told.raw_headers, (b"connection", b"close")]
            head = h11.Response(
                status_code=told.status_code, headers=headers, reason=b"Bad Request"
            )
            for event in (head, h11.Data(data=bytes(told.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look(self) -> None:
        self._timer = self.loop.call_later(HALF_PATIENCE, self._look)
        if self.transport.is_closing():
            before, self._unread = self._unread, self.transport.get_write_buffer_size()
            if self._unread >= before:
                self.transport.abort()
            return
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._last is self.cycle:
            self.transport.close()
        self._last = self.cycle if waits else self


class _Server(uvicorn.Server):
    """A server that ends well after a signal: texts end first, and then their connections.

    uvicorn's own would cut both, and kills the process at the end.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain: float) -> None:
        super().__init__(config)
        self.service, self.drain = service, drain
        self.asked = False  # whether a signal has come

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the first signal end the server, and a second one not wait for anybody."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can have handlers
            return
        own = {number: signal.signal(number, self.handle_exit) for number in _signals()}
        try:
            yield
        finally:
            for number, handler in own.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End: no new texts, and so many seconds for the others."""
        drain, self.asked = 0.0 if self.asked else self.drain, True
        # A thread for each: another signal may come while this one's is being started.
        threading.Thread(target=self._end, args=(drain,), daemon=True).start()

    def _end(self, drain: float) -> None:
        self.service.scheduler.close(drain)
        self.should_exit = True


def listen(place: Place) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InvalidInputError: if the address is impossible, or in use.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    found = socket.socket(family)
    try:
        if sys.platform != "win32":  # where it lets a second server take the port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
        found.bind((place.host, place.port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"cannot listen on {place.host}, port {place.port}: {reason}; choose another --host "
            f"or --port, port 0 for a free one"
        ) from error
    return found


def run(
    application: ASGIApp,
    service: Service,
    place: Place,
    listening: socket.socket,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; texts that are being written may end.

    Raises:
        EngineError: if the engine broke down.
    """
    config = uvicorn.Config(
        application,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(KEEP_ALIVE),
        timeout_graceful_shutdown=LAST_ANSWERS,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
    )
    try:
        config.load()  # certificates are read here
        asyncio.run(_serve(_Server(config, service, place.drain), service, listening, ready))
    except ssl.SSLError as error:
        raise InvalidInputError(
            f"{place.certificate} and {place.key} are no certificate and its key: {error}"
        ) from error
    finally:
        service.scheduler.close()
    if service.scheduler.broken is not None:
        raise EngineError(f"the engine broke down: {service.scheduler.broken}")


async def _serve(
    server: uvicorn.Server,
    service: Service,
    listening: socket.socket,
    ready: Callable[[], None],
) -> None:
    watching = asyncio.ensure_future(_watch(server, service))
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    await serving
    watching.cancel()


async def _watch(server: uvicorn.Server, service: Service) -> None:
    """End the server if nobody writes texts any more."""
    while service.scheduler.alive and service.scheduler.broken is None:
        await asyncio.sleep(LOOKS)
    await asyncio.sleep(LAST_WORDS)
    server.should_exit = True


def _signals() -> list[int]:
    return [signal.SIGINT, signal.SIGTERM]
