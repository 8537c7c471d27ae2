"""Between the scheduler's thread and the event loop: who has news is woken once a turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from ..generation.tickets import News, Ticket

__all__ = ["Courier"]


class Courier:
    """Wakes the tasks that wait for tickets."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bells: dict[Ticket, asyncio.Event] = {}

    def start(self) -> None:
        """Deliver to the loop that runs here."""
        self._loop = asyncio.get_running_loop()

    def tell(self, tickets: Sequence[Ticket]) -> None:
        """Wake those who wait for these tickets; called from the scheduler's thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ring, tickets)

    async def news(self, tickets: Sequence[Ticket]) -> AsyncIterator[tuple[int, list[News], bool]]:
        """Yield (number of the ticket, what is new, whether that is all), until all have ended."""
        bell, left = asyncio.Event(), dict(enumerate(tickets))
        self._bells |= dict.fromkeys(tickets, bell)
        try:
            while left:
                bell.clear()
                for number, ticket in list(left.items()):
                    ended = ticket.ended  # asked first: nothing is new after the end
                    news = ticket.take()
                    if ended:
                        del left[number]
                    if news or ended:
                        yield number, news, ended
                if left:
                    await bell.wait()
        finally:
            for ticket in tickets:
                self._bells.pop(ticket, None)

    def _ring(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            bell = self._bells.get(ticket)
            if bell is not None:
                bell.set()
