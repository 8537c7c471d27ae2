"""The lines of a chat that are commands."""

import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgegpt.errors import EdgeGPTError, InvalidInputError

if TYPE_CHECKING:
    from edgegpt import Result
    from edgegpt.runtime.chat import Conversation

__all__ = ["PROBE", "Commands", "help_text", "room"]

SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "seed",
)
PROBE = [0]  # a prompt that every model takes
HELP = {
    "/system TEXT": "begin anew, with this as the system's message",
    "/reset": "forget all turns",
    "/undo": "take back the last turn",
    "/drop [N]": "forget the N oldest turns",
    "/save FILE": "write the history",
    "/load FILE": "read a history",
    "/set NAME VALUE": f"one of {', '.join(SETTINGS)}; without a value: the default",
    "/json": "print answers as JSON, or as text again",
    "/help": "this list",
    "/exit": "leave; so does Ctrl-D. Ctrl-C ends an answer, Alt-Enter a line",
}


def help_text(*, short: bool = False) -> str:
    """Return what can be typed."""
    if short:
        return "/help tells what else can be typed; Ctrl-C ends an answer, Ctrl-D the chat"
    width = max(map(len, HELP))
    return "\n".join(f"{name:{width}}  {words}" for name, words in HELP.items())


class Commands:
    """What lines with a slash do.

    Attributes:
        as_json: whether answers are printed as JSON.
    """

    def __init__(self, chat: "Conversation", *, as_json: bool) -> None:
        self.chat, self.as_json = chat, as_json
        self.known: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/reset": self._reset,
            "/undo": lambda _: self._say("taken back" if chat.undo() else "there is no turn"),
            "/drop": self._drop,
            "/save": self._save,
            "/load": self._load,
            "/set": self._set,
            "/json": self._json,
            "/help": lambda _: self._say(help_text()),
        }

    def run(self, line: str) -> bool:
        """Do what a line says; return whether the chat goes on.

        Raises:
            EdgeGPTError: if it cannot be done.
        """
        name, _, rest = line.strip().partition(" ")
        if name == "/exit":
            return False
        if name not in self.known:
            like = _like(name, [*self.known, "/exit"])
            raise InvalidInputError(
                f"there is no {name:.40}; {like or '/help lists what there is'}"
            )
        self.known[name](rest.strip())
        return True

    def told(self, result: "Result") -> None:
        """Print an answer as JSON, if that is wanted."""
        if self.as_json:
            click.echo(json.dumps(result.to_dict() | {"reused_tokens": self.chat.reused}))

    def _system(self, text: str) -> None:
        if not text:
            raise InvalidInputError("/system needs a text")
        self.chat.messages = [{"role": "system", "content": text}]
        self._say("begun anew")

    def _reset(self, _: str) -> None:
        self.chat.reset()
        self._say("forgotten")

    def _save(self, rest: str) -> None:
        self.chat.save(_path(rest))
        self._say(f"wrote {rest}")

    def _load(self, rest: str) -> None:
        self.chat.load(_path(rest))
        self._say(f"read {rest}: {len(self.chat.messages)} messages")

    def _drop(self, rest: str) -> None:
        try:
            turns = int(rest or 1)
        except ValueError as error:  # also for a number of more than 4300 digits
            raise InvalidInputError(f"/drop needs a number, not {rest!r:.40}") from error
        dropped = self.chat.drop_oldest(turns)
        self._say(f"{dropped} forgotten, {room(self.chat)}")

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name not in SETTINGS:
            like = _like(name, SETTINGS)
            told = f"/set knows {', '.join(SETTINGS)}, not {name!r:.40}"
            raise InvalidInputError(f"{told}; {like}" if like else told)
        settings = {key: old for key, old in self.chat.settings.items() if key != name}
        if value:
            try:
                settings[name] = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(f"{value!r:.40} is no number") from error
            # A wrong one is told now, not with the next message.
            self.chat.model.stream(PROBE, **settings)
        self.chat.settings = settings
        self._say(f"{name} is {settings.get(name, 'the default')}")

    def _json(self, _: str) -> None:
        self.as_json = not self.as_json
        self._say("answers are JSON" if self.as_json else "answers are text")

    @staticmethod
    def _say(text: str) -> None:
        click.echo(click.style(text, dim=True), err=True)


def room(chat: "Conversation") -> str:
    """Return how much room there is; nothing where the template takes no such history."""
    try:
        return f"{chat.left} tokens left"
    except EdgeGPTError:
        return ""


def _like(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that look like this one; nothing if none does."""
    close = get_close_matches(name, list(known))
    return f"did you mean {' or '.join(close)}?" if close else ""


def _path(rest: str) -> Path:
    if not rest:
        raise InvalidInputError("this needs the path of a file")
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(f"there is no user of this name: {rest!r:.40}") from error
