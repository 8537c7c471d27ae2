"""Who may ask: a known host, no foreign page, the right key. Pure ASGI, so that answers stream."""

import hmac
import ipaddress
import uuid
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import Problem, answer

__all__ = ["Guard", "is_local"]

OPEN_PATHS = ("/", "/health")  # the page has no secrets; it asks for the key


class Guard:
    """Numbers requests, and lets them through to `app`, or answers them with what is wrong.

    A page of another site that the user looks at can send requests to this machine: its Origin
    betrays it. A name that its owner lets point here (DNS rebinding) is betrayed by Host.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        keys: Sequence[str] = (),
    ) -> None:
        """`hosts`: names beside localhost and addresses; `origins`: of pages; no `keys`: no key."""
        self.app, self.hosts, self.origins = app, {name.lower() for name in hosts}, set(origins)
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            number = uuid.uuid4().hex
            scope.setdefault("state", {})["request_id"] = number
            send = _numbered(send, number)
            problem = self._problem(scope["path"], Headers(scope=scope))
            if problem is not None:
                await answer(problem)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _problem(self, path: str, headers: Headers) -> Problem | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._knows(host):
            return Problem(
                f"this server is not {host[:100]!r}; start it with --allow-host NAME if it is",
                status=403,
            )
        if origin is not None and origin not in self.origins and not _same(origin, host):
            return Problem(
                f"pages of {origin[:100]!r} may not ask; start the server with --cors ORIGIN if "
                f"they may",
                status=403,
            )
        if self.keys and path not in OPEN_PATHS and not self._fits(headers.get("authorization")):
            return Problem(
                "the API key is missing or wrong: send it as `Authorization: Bearer KEY`",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None

    def _knows(self, host: str) -> bool:
        name = host.lower()
        name = name[: name.rfind("]") + 1] if name.startswith("[") else name.partition(":")[0]
        return name == "localhost" or name in self.hosts or is_address(name)

    def _fits(self, given: str | None) -> bool:
        """Return whether the key is one of ours, in a time that does not depend on it."""
        kind, _, key = (given or "").partition(" ")
        own = key.strip().encode("utf-8", "replace")
        found = [hmac.compare_digest(own, key) for key in self.keys]
        return kind.lower() == "bearer" and any(found)


def _numbered(send: Send, number: str) -> Send:
    """Return a `send` that gives answers the number of their request."""

    async def numbered(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return numbered


def is_address(name: str) -> bool:
    """Return whether a host is an address, not a name."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_local(host: str) -> bool:
    """Return whether only this machine can reach a server that is bound to `host`."""
    if host.lower() == "localhost":
        return True
    return is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback


def _same(origin: str, host: str) -> bool:
    """Return whether a page comes from this server itself."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
