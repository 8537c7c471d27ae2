"""An answer as a client gets it: thoughts, content and calls, from a text that comes in pieces."""

from typing import NamedTuple

from .thoughts import Thoughts
from .tool_calls import Calls, ToolCall

__all__ = ["Reader", "Said"]


class Said(NamedTuple):
    """What is new in an answer."""

    thought: str = ""
    content: str = ""
    calls: tuple[ToolCall, ...] = ()


class Reader:
    """Parts one answer."""

    def __init__(self, thoughts: Thoughts | None = None, calls: Calls | None = None) -> None:
        """Begin; None: the text has no thoughts, or no calls, whatever it looks like."""
        self.thoughts, self.calls = thoughts, calls

    def push(self, piece: str) -> Said:
        """Take a piece; return what is now certain."""
        thought, content = ("", piece) if self.thoughts is None else self.thoughts.push(piece)
        return self._said(thought, content)

    def finish(self) -> Said:
        """Return the rest."""
        rest = ("", "") if self.thoughts is None else self.thoughts.finish()
        said = self._said(*rest)
        last = "" if self.calls is None else self.calls.finish()
        return said._replace(content=said.content + last)

    def _said(self, thought: str, content: str) -> Said:
        if self.calls is None:
            return Said(thought, content)
        content, calls = self.calls.push(content)
        return Said(thought, content, tuple(calls))
