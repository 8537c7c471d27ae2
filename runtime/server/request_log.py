"""One line a request: its number, its tokens, its times, how it ended. Never its text."""

import json
import logging
from collections.abc import Sequence

from ..generation.tickets import Ticket

__all__ = ["LOGGER", "JsonLines", "report"]

LOGGER = "edgegpt.runtime.server.requests"

logger = logging.getLogger(LOGGER)


def report(number: str, tickets: Sequence[Ticket], *, left: bool) -> None:
    """Log a request that has ended; `left`: its reader did not wait for that."""
    facts = {
        "request": number,
        "prompt_tokens": sum(one.text.prompt_length for one in tickets),
        "reused_tokens": sum(one.reused for one in tickets),
        "new_tokens": sum(len(one.text.new_ids) for one in tickets),
        "first_token_s": round(min((one.writing.first_s for one in tickets), default=0.0), 4),
        "total_s": round(max((one.writing.last_s for one in tickets), default=0.0), 4),
        "end": "left" if left else ", ".join(sorted({one.ending for one in tickets})),
    }
    line = (
        "%(request)s: %(prompt_tokens)d + %(new_tokens)d tokens, the first after "
        "%(first_token_s).3f s, the last after %(total_s).3f s: %(end)s"
    )
    logger.info(line, facts)


class JsonLines(logging.Formatter):
    """Lines of a request as JSON, with the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        facts = record.args if isinstance(record.args, dict) else {"message": record.getMessage()}
        return json.dumps({"time": round(record.created, 3), **facts})
