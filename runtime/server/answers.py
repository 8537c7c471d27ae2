"""How a text travels to its reader: at once when it has ended, or in events while it is written.

A reader that leaves, or does not read for a while, ends its texts.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..generation.tickets import News, Ticket
from .asked import Asked
from .courier import Courier
from .forms import Form, reason_of
from .problems import answer, body_of, problem_of

__all__ = ["Answer"]

PATIENCE = 30.0  # seconds in which a reader has to take an event
# Line ends of Unicode, which some readers of events take for ends of lines.
ESCAPES = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\u0085": "\\u0085"}


class Answer(Response):
    """The answer to a request whose texts are being written."""

    def __init__(
        self,
        tickets: Sequence[Ticket],
        asked: Asked,
        form: Form,
        courier: Courier,
        ended: Callable[[Sequence[Ticket], bool], None],
    ) -> None:
        """`ended` is called at the end with the tickets, and whether the reader had left."""
        super().__init__()
        self.tickets, self.asked, self.form, self.courier = tickets, asked, form, courier
        self.ended, self.left = ended, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer, and watch whether somebody is still there."""
        writing = asyncio.ensure_future(self._written(scope, receive, send))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((writing, watching), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                self.left = True
            else:
                await writing
        finally:
            for ticket in self.tickets:
                ticket.cancel()
            for task in (writing, watching):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            self.ended(self.tickets, self.left)

    def _written(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._stream(send) if self.asked.stream else self._whole(scope, receive, send)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: list[list[News]] = [[] for _ in self.tickets]
        response: Response | None = None
        async for number, news, _ in self.courier.news(self.tickets):
            found[number] += news
            error = self.tickets[number].error
            if error is not None:  # the other choices end with it
                response = answer(problem_of(error))
                break
        response = response or JSONResponse(self.form.whole(self.tickets, found))
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in self._events():
            message = {"type": "http.response.body", "body": event, "more_body": True}
            try:
                await asyncio.wait_for(send(message), PATIENCE)
            except asyncio.TimeoutError:
                self.left = True
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        for number in range(len(self.tickets)):
            opening = self.form.opening(number)
            if opening is not None:
                yield _event(opening)
        async for number, news, ended in self.courier.news(self.tickets):
            ticket = self.tickets[number]
            error = ticket.error if ended else None
            reason = reason_of(ticket) if ended and error is None else None
            if reason or any(one.piece or one.logprob for one in news):
                event = self.form.event(number, news, reason)
                if event is not None:
                    yield _event(event)
            if error is not None:  # the end: clients take [DONE] for success
                yield _event(body_of(problem_of(error)))
                return
        if self.asked.usage:
            yield _event(self.form.last(self.tickets))
        yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return f"data: {text}\n\n".encode("utf-8", "replace")


async def _gone(receive: Receive) -> None:
    """Wait until the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
