"""A chat as one text: messages, put together by the template that a model brings along.

A template is a program by someone else. It runs in `sandbox`, which bounds what it can reach, and
its time and memory. It gives what transformers' `apply_chat_template` gives.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import BundleError, InvalidInputError
from ..packages import pip_install
from .call_forms import CallForm, form_in
from .thoughts import CLOSE as END_OF_THOUGHTS
from .thoughts import OPEN as THOUGHTS
from .thoughts import Thoughts

__all__ = ["ChatPrompt", "ChatTemplate", "quote"]

LONGEST_MESSAGE = 200  # characters of what a template says against its input
UNKNOWN = re.compile("No (filter|test) named ")  # as jinja2 says it
DEEPEST = 60  # lists and tables inside of one another, in messages and tools

# A template that puts texts and arguments together wants these as text.
JOINED_ARGUMENTS = re.compile(r"""arguments['"]?\]?\s*[+~]""")

# Templates of models that also see take a message apart. Most ask first whether it is a text; those
# that do not would leave it out. A loop over `content.split(...)` wants a text.
PARTS = re.compile(r"""for\s+\w+\s+in\s+\w+(\.content\b|\[['"]content['"]\])(?!\s*[.(\[])""")
ASKS_FIRST = re.compile(
    r"""content['"]?\]?\)?\s+is\s+(not\s+)?(string|iterable|sequence|mapping)\b"""
)

RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
REASONING = "reasoning_content"

# Characters for private use, around names of special tokens while a template runs.
OPEN, CLOSE = "\ue0f0", "\ue0f1"
MARKS = re.compile(f"[{OPEN}{CLOSE}]")


class ChatPrompt(str):
    """A rendered chat: a text prompt that is whole, so that nothing is put before it.

    Attributes:
        quoted: from where to where names of special tokens are text, and not these tokens.
        thinks: whether the model may think before it answers.
        marks: names of tokens that are text in the answer, also where they are special tokens.
    """

    quoted: tuple[tuple[int, int], ...] = ()
    thinks: bool = False
    marks: tuple[str, ...] = ()

    def thoughts(self) -> Thoughts | None:
        """Return what parts the answer; None: it has no thoughts."""
        return Thoughts(begun=self.within_thoughts) if self.thinks else None

    @property
    def within_thoughts(self) -> bool:
        """Whether the template has begun the thoughts itself."""
        return self.rstrip().endswith(THOUGHTS)

    @classmethod
    def of(cls, rendered: str) -> "ChatPrompt":
        """Return what a template gave, without the marks of `quote`."""
        parts, quoted, length, begin = [], [], 0, None
        for part in re.split(f"([{OPEN}{CLOSE}])", rendered):
            if part == OPEN:
                begin = length if begin is None else begin
            elif part == CLOSE:
                if begin is None:
                    raise _torn()
                quoted.append((begin, length))
                begin = None
            else:
                parts.append(part)
                length += len(part)
        if begin is not None:
            raise _torn()
        prompt = cls("".join(parts))
        prompt.quoted = tuple(quoted)
        return prompt


def quote(value: Any, names: Sequence[str]) -> Any:
    """Return a message's value with marks around the names of special tokens in its texts.

    Also around the beginning of a name at the end of a text: a template may put the next text
    right after it.
    """
    if isinstance(value, list):
        return [quote(part, names) for part in value]
    if isinstance(value, dict):
        return {quote(key, names): quote(part, names) for key, part in value.items()}
    if not isinstance(value, str) or not names:
        return value
    pattern, beginnings, longest = _patterns(tuple(names))
    parts = pattern.split(MARKS.sub("", value))
    bare = parts[-1].rstrip()
    for size in range(min(longest, len(bare)), 0, -1):
        if bare[-size:] in beginnings:
            parts[-1:] = [bare[:-size], bare[-size:], parts[-1][len(bare) :]]
            break
    return "".join(
        f"{OPEN}{part}{CLOSE}" if number % 2 else part for number, part in enumerate(parts)
    )


@lru_cache(maxsize=8)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str], int]:
    """Return what finds names, the longest first; their beginnings; and the longest of these."""
    longest_first = sorted(names, key=len, reverse=True)
    beginnings = frozenset(name[:size] for name in names for size in range(1, len(name)))
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
    return pattern, beginnings, len(longest_first[0]) - 1


class ChatTemplate:
    """A compiled template. It may be used from several threads.

    Attributes:
        takes_tools: whether it tells the model about tools.
        calls: the form of calls that it teaches; None: none that is known.
    """

    def __init__(self, text: str, where: str, special_tokens: dict[str, str]) -> None:
        """Compile a template.

        Args:
            text: the template, in jinja2's language.
            where: what to call it in messages, as its file.
            special_tokens: texts by the names that the template uses, such as bos_token.

        Raises:
            InvalidInputError: if jinja2 is not installed.
            BundleError: if the template is not valid, or uses what it may not.
        """
        try:
            # jinja2 is an extra.
            from .sandbox.environment import Sandbox  # noqa: PLC0415
            from .sandbox.library import FUNCTIONS  # noqa: PLC0415
            from .sandbox.meter import RaisedError  # noqa: PLC0415
        except ImportError as error:
            raise InvalidInputError(f"chat templates need jinja2: {pip_install('chat')}") from error
        self._where, self._special_tokens = where, special_tokens
        self._raised = RaisedError
        try:
            self._template, names = Sandbox().template(text)
        except Exception as error:  # jinja2 and Python's compiler raise many kinds
            raise BundleError(f"{where} is no usable chat template: {_line(error)}") from error
        self.takes_tools = "tools" in names
        self.calls: CallForm | None = form_in(text) if self.takes_tools else None
        self._thinks, self._takes_reasoning = THOUGHTS in text, REASONING in text
        self._joins_arguments = JOINED_ARGUMENTS.search(text) is not None
        self._wants_parts = PARTS.search(text) is not None and ASKS_FIRST.search(text) is None
        self._cuts_thoughts = END_OF_THOUGHTS in text
        self._reserved = {*RESERVED, *special_tokens, *FUNCTIONS}

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        names: Sequence[str] = (),
        thinks: bool = False,
    ) -> ChatPrompt:
        """Return the chat as a prompt.

        Args:
            messages: at least one; each has a role, and mostly a content. Values are those of JSON.
                What an assistant thought is `reasoning_content`.
            add_generation_prompt: end with the beginning of the model's answer.
            tools: JSON schemas of functions that the model may call.
            variables: more that this template knows, such as enable_thinking.
            names: of special tokens that are text where they stand in messages, tools or variables.
            thinks: whether the model may think, also if its template does not say so.

        Raises:
            InvalidInputError: for messages, tools or variables of another form, and where the
                template itself refuses them.
            BundleError: if the template fails, or uses too much time or memory.
        """
        given = {
            **self._variables(variables or {}, names),
            **self._special_tokens,
            "messages": [self._as_wanted(one) for one in _messages(messages, names)],
            "tools": None if tools is None else quote(_tables(tools, "tools"), names),
            "documents": None,
            "add_generation_prompt": bool(add_generation_prompt),
        }
        try:
            rendered = self._template.render(given)
        except self._raised as error:
            raise InvalidInputError(
                f"the chat template refuses the messages: {_line(error)}"
            ) from error
        except Exception as error:  # a template can make Python raise anything
            raise BundleError(
                f"{self._where} cannot be used for these messages: {_line(error)}"
            ) from error
        prompt = ChatPrompt.of(rendered) if names else ChatPrompt(rendered)
        prompt.thinks = thinks or self._thinks
        prompt.marks = (THOUGHTS, END_OF_THOUGHTS) if prompt.thinks else ()
        if tools and self.calls is not None:
            prompt.marks += self.calls.marks
        return prompt

    def _variables(self, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Check and copy what the template is told beside messages and tools."""
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"chat_template_kwargs is {given!r:.40}; it must be a dict")
        found = _plain(dict(given), "chat_template_kwargs", DEEPEST)
        for name in found:
            if name in self._reserved:
                raise InvalidInputError(
                    f"chat_template_kwargs has {name!r:.40}, which is not for the caller to set"
                )
        return {name: quote(value, names) for name, value in found.items()}

    def _as_wanted(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with its parts where the template looks for them."""
        calls = message.get("tool_calls") if self._joins_arguments else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        message = self._with_thoughts(message)
        if self._wants_parts and isinstance(message.get("content"), str):
            return message | {"content": [{"type": "text", "text": message["content"]}]}
        return message

    def _with_thoughts(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message whose thoughts are where the template looks for them."""
        if self._takes_reasoning or REASONING not in message:
            return message
        rest = {key: value for key, value in message.items() if key != REASONING}
        thought, content = message[REASONING], rest.get("content", "")
        if self._cuts_thoughts and isinstance(thought, str) and isinstance(content, str):
            rest["content"] = f"{THOUGHTS}\n{thought}\n{END_OF_THOUGHTS}\n\n{content}"
        return rest


def _torn() -> InvalidInputError:
    """Return the error for a template that cuts a message in two at a name."""
    return InvalidInputError(
        "the chat template cuts a message within the name of a special token; leave it out"
    )


def _line(error: Exception) -> str:
    """Return what an error says, as one line of bounded length."""
    said = str(error)[: 4 * LONGEST_MESSAGE] or type(error).__name__
    if UNKNOWN.match(said):  # jinja2 has it, perhaps; the sandbox has not
        said = f"{said.rstrip('.')} among those that chat templates may use here"
    words = "".join(letter if letter.isprintable() else " " for letter in said).split()
    return " ".join(words)[:LONGEST_MESSAGE]


def _messages(messages: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Check the messages, and copy them without their values of None, as transformers does.

    The `names` are marked in all values but the roles.
    """
    tables = _tables(messages, "messages")
    if not tables:
        raise InvalidInputError("there is no message")
    for number, message in enumerate(tables):
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidInputError(
                f"messages[{number}] has the role {role!r:.40}; it must be a text such as 'user'"
            )
    return [
        {
            key: quote(value, names) if names and key != "role" else value
            for key, value in message.items()
            if value is not None
        }
        for message in tables
    ]


def _tables(values: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidInputError(f"{name} are {values!r:.40}; they must be a list of dicts")
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise InvalidInputError(f"{name}[{number}] is {value!r:.40}; it must be a dict")
    return [_plain(value, f"{name}[{number}]", DEEPEST) for number, value in enumerate(values)]


def _plain(value: Any, where: str, depth: int) -> Any:
    """Return a copy made of plain JSON types, without methods that a template could find."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if depth == 0:
        raise InvalidInputError(f"{where} nests lists and tables more than {DEEPEST} deep")
    if isinstance(value, list | tuple):
        return [_plain(part, where, depth - 1) for part in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r:.40}, which is no text")
        return {str(key): _plain(part, where, depth - 1) for key, part in value.items()}
    raise InvalidInputError(
        f"{where} holds {value!r:.40}; a message is made of texts, numbers, lists and dicts"
    )
