"""A chat with a model: its history, and the row that keeps what was said."""

import json
from collections.abc import Generator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from .errors import DataError, EdgeGPTError, InvalidInputError
from .files import write_file
from .generation.writing import Result
from .language_model import LanguageModel
from .text.chat_template import ChatPrompt
from .text.thoughts import Thoughts, apart

__all__ = ["Conversation"]

Message = dict[str, Any]


class Conversation:
    """A chat that goes on: each turn computes only what is new in it. For one thread at a time.

    Attributes:
        messages: the history, a system's message first if there is one. It may be edited.
        settings: arguments of `LanguageModel.stream` for each answer.
        result: of the last answer; None before it. Its text has the thoughts, too.
        thoughts: what parts the answer that is being written, for `edgegpt.runtime.text.thoughts.
            apart`; None: the model does not think.
    """

    def __init__(
        self,
        model: LanguageModel,
        system: str | None = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Begin a chat.

        `chat_template_kwargs` is more that the template knows by name, such as enable_thinking.

        Raises:
            InvalidInputError: if the bundle has no chat template, or the model an encoder.
        """
        self.model, self.settings = model, settings
        self.chat_template_kwargs = chat_template_kwargs
        self.messages: list[Message] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self.result: Result | None = None
        self.thoughts: Thoughts | None = None
        self._prompt([{"role": "user", "content": "."}])
        self._row = model.keep_row()

    def stream(self, content: str, **settings: Any) -> Generator[str, None, None]:
        """Say something; return the pieces of the answer, as they come.

        At its end, or where it is left, message and answer become part of the history.

        Raises:
            InvalidInputError: if there is no room for an answer; see `drop_oldest`.
        """
        messages = [*self.messages, {"role": "user", "content": content}]
        prompt = self._prompt(messages)
        used = self._length(prompt)
        if used >= self.model.context:
            raise InvalidInputError(
                f"the chat has at least {used} tokens, and the context {self.model.context}: drop "
                f"its oldest turns (`drop_oldest`, or /drop in a terminal), or begin anew"
            )
        stream = self.model.stream(
            prompt, overflow="stop", kept=self._row, **(self.settings | settings)
        )

        self.thoughts = prompt.thoughts()

        def pieces() -> Generator[str, None, None]:
            try:
                yield from stream
            finally:
                stream.close()
                self.result = stream.result
                self.messages = [*messages, _answer(stream.result.text or "", prompt.thoughts())]

        return pieces()

    def say(self, content: str, **settings: Any) -> Result:
        """Say something; return the answer, which is then part of the history."""
        for _ in self.stream(content, **settings):
            pass
        assert self.result is not None, "the answer has ended"
        return self.result

    @property
    def reused(self) -> int:
        """How many tokens of the last prompt were not computed again."""
        return self._row.reused

    @property
    def left(self) -> int:
        """How many tokens fit the context after the history."""
        if not self.messages:
            return self.model.context
        prompt = self._prompt(self.messages, add_generation_prompt=False)
        return max(0, self.model.context - self._length(prompt))

    def undo(self) -> bool:
        """Take back the last turn; return whether there was one."""
        places = [n for n, one in enumerate(self.messages) if one.get("role") == "user"]
        del self.messages[places[-1] if places else len(self.messages) :]
        return bool(places)

    def drop_oldest(self, turns: int = 1) -> int:
        """Forget the oldest turns, never the system's message; return how many there were.

        A turn begins with a message of the user; what is before the first one belongs to it.

        Raises:
            InvalidInputError: for a negative number of turns.
        """
        if turns < 0:
            raise InvalidInputError(f"{turns} turns cannot be dropped")
        begin = len(list(takewhile(lambda one: one.get("role") == "system", self.messages)))
        later = [n for n, one in enumerate(self.messages) if one.get("role") == "user"][1:]
        starts = [begin, *later] if begin < len(self.messages) else []
        dropped = min(turns, len(starts))
        rest = [*starts, len(self.messages)][dropped]
        self.messages = [*self.messages[:begin], *self.messages[rest:]]
        return dropped

    def reset(self) -> None:
        """Forget all turns, but not the system's message."""
        self.drop_oldest(len(self.messages))

    def save(self, path: Path) -> None:
        """Write the history as JSON, a list of messages.

        Raises:
            DataError: if it cannot be written.
        """
        try:
            if path.exists() and not path.is_file():
                raise DataError(f"cannot write {path}: it is no file")
            write_file(path, json.dumps(self.messages, ensure_ascii=False, indent=1).encode())
        except (OSError, ValueError) as error:
            raise DataError(f"cannot write {path}: {_reason(error)}") from error

    def load(self, path: Path) -> None:
        """Read a history that `save` wrote; if it cannot be taken, the one before it stays.

        Raises:
            DataError: if it cannot be read, is none, or the bundle's template does not take it.
        """
        try:
            if path.exists() and not path.is_file():  # a device may have no end
                raise DataError(f"cannot read {path}: it is no file")
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read {path}: {_reason(error)}") from error
        if not isinstance(found, list) or not all(map(_is_message, found)):
            raise DataError(
                f"{path} is no history: it must be a list of messages, each with a role and a "
                f"content"
            )
        try:
            question = {"role": "user", "content": "."}
            self.model.apply_chat_template([*found, question], special_tokens=False)
        except EdgeGPTError as error:
            raise DataError(f"{path} is no history for this model: {error}") from error
        self.messages = found

    def close(self) -> None:
        """Give the memory of the row back."""
        self._row.close()

    def _prompt(self, messages: list[Message], *, add_generation_prompt: bool = True) -> ChatPrompt:
        return self.model.apply_chat_template(
            messages,
            add_generation_prompt=add_generation_prompt,
            chat_template_kwargs=self.chat_template_kwargs,
            special_tokens=False,
        )

    def _length(self, prompt: str) -> int:
        """Return how many tokens a prompt has; of one that is far too long, how many at least.

        That one is not tokenized, which may take long, and which nothing interrupts.
        """
        model = self.model
        longest = model.tokenizer.longest if model.tokenizer else 1
        least = -(-len(prompt) // longest)
        return least if least > model.context else len(model.encode_prompt(prompt))


def _answer(text: str, thoughts: Thoughts | None) -> Message:
    """Return an answer as a message, with its thoughts apart."""
    parts = list(apart([text], thoughts))
    content = "".join(piece for thinks, piece in parts if not thinks)
    thought = "".join(piece for thinks, piece in parts if thinks)
    told = {"reasoning_content": thought} if thought else {}
    return {"role": "assistant", "content": content, **told}


def _is_message(one: Any) -> bool:
    """Return whether this is a message: with a role, and a content or calls of tools."""
    if not isinstance(one, dict) or not isinstance(one.get("role"), str):
        return False
    return isinstance(one.get("content"), str | list) or "tool_calls" in one


def _reason(error: Exception) -> str:
    """Return why a file cannot be read or written, in few words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return getattr(error, "strerror", None) or str(error)
