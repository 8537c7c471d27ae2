"""A chat with a model: its history, and the row that keeps what was said."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError, InvalidInputError
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

    def stream(self, content: str, **settings: Any) -> Iterator[str]:
        """Say something; return the pieces of the answer, as they come.

        At its end, or where it is left, message and answer become part of the history.

        Raises:
            InvalidInputError: if there is no room for an answer; see `drop_oldest`.
        """
        messages = [*self.messages, {"role": "user", "content": content}]
        prompt = self._prompt(messages)
        used = len(self.model.encode_prompt(prompt))
        if used >= self.model.context:
            raise InvalidInputError(
                f"the chat has {used} tokens, and the context {self.model.context}: drop its "
                f"oldest turns, or begin anew"
            )
        stream = self.model.stream(
            prompt, overflow="stop", kept=self._row, **(self.settings | settings)
        )

        self.thoughts = prompt.thoughts()

        def pieces() -> Iterator[str]:
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
        return max(0, self.model.context - len(self.model.encode_prompt(prompt)))

    def undo(self) -> bool:
        """Take back the last turn; return whether there was one."""
        places = [n for n, one in enumerate(self.messages) if one.get("role") == "user"]
        del self.messages[places[-1] if places else len(self.messages) :]
        return bool(places)

    def drop_oldest(self, turns: int = 1) -> int:
        """Forget the oldest turns, never the system's message; return how many there were."""
        kept = [one for one in self.messages[:1] if one.get("role") == "system"]
        starts = [n for n, one in enumerate(self.messages) if one.get("role") == "user"]
        dropped = min(turns, len(starts))
        rest = [*starts, len(self.messages)][dropped] if starts else len(self.messages)
        self.messages = [*kept, *self.messages[rest:]]
        return dropped

    def reset(self) -> None:
        """Forget all turns, but not the system's message."""
        self.drop_oldest(len(self.messages))

    def save(self, path: Path) -> None:
        """Write the history as JSON, a list of messages."""
        write_file(path, json.dumps(self.messages, ensure_ascii=False, indent=1).encode())

    def load(self, path: Path) -> None:
        """Read a history that `save` wrote.

        Raises:
            DataError: if it cannot be read, or is none.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if not isinstance(found, list) or not all(
            isinstance(one, dict) and isinstance(one.get("role"), str) for one in found
        ):
            raise DataError(f"{path} is no history: it must be a list of messages with roles")
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


def _answer(text: str, thoughts: Thoughts | None) -> Message:
    """Return an answer as a message, with its thoughts apart."""
    parts = list(apart([text], thoughts))
    content = "".join(piece for thinks, piece in parts if not thinks)
    thought = "".join(piece for thinks, piece in parts if thinks)
    told = {"reasoning_content": thought} if thought else {}
    return {"role": "assistant", "content": content, **told}
