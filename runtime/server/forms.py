"""Answers in OpenAI's form: of `/v1/completions`, and of `/v1/chat/completions`."""

import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..generation.logprobs import TokenLogprob
from ..generation.rows import FinishReason
from ..generation.tickets import News, Ticket
from ..text.reading import Reader
from ..text.tokenizer import Tokenizer
from ..text.tool_calls import ToolCall

__all__ = ["Chat", "Completion", "Form", "usage_of"]

LENGTH_OF_ID = 9  # letters and digits, of a call: some templates insist
FINISH: dict[FinishReason, str] = {"eos": "stop", "stop": "stop", "time": "length"}


class Form(Protocol):
    """How an endpoint answers."""

    def whole(self, tickets: Sequence[Ticket], news: Sequence[Sequence[News]]) -> dict[str, Any]:
        """Return the answer with all choices."""

    def opening(self, number: int) -> dict[str, Any] | None:
        """Return the first event of a choice, if there is one before its text."""

    def event(self, number: int, news: Sequence[News], reason: str | None) -> dict[str, Any] | None:
        """Return an event with what is new in a choice, and why it has ended, if that is known."""

    def last(self, tickets: Sequence[Ticket]) -> dict[str, Any]:
        """Return the event with the numbers of tokens."""


def reason_of(ticket: Ticket) -> str:
    """Return why a text has ended, in OpenAI's words."""
    return FINISH.get(ticket.result.finish_reason, "length")


def usage_of(tickets: Sequence[Ticket], choices: int) -> dict[str, Any]:
    """Return the numbers of tokens; the choices of one prompt share it."""
    prompts = sum(ticket.text.prompt_length for ticket in tickets[::choices])
    new = sum(len(ticket.text.new_ids) for ticket in tickets)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": new,
        "total_tokens": prompts + new,
        "prompt_tokens_details": {"cached_tokens": sum(one.reused for one in tickets[::choices])},
    }


class _Form:
    """What both have."""

    prefix, kind, kind_of_events = "", "", ""

    def __init__(self, model: str, tokenizer: Tokenizer, choices: int) -> None:
        self.model, self.tokenizer, self.choices = model, tokenizer, choices
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def last(self, tickets: Sequence[Ticket]) -> dict[str, Any]:
        """Return the event with the numbers of tokens."""
        return self._object(self.kind_of_events, [], usage=usage_of(tickets, self.choices))

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def _name(self, token: int) -> str:
        return self.tokenizer.decode([token]) or (self.tokenizer.backend.id_to_token(token) or "")


class Completion(_Form):
    """The form of `/v1/completions`."""

    prefix, kind, kind_of_events = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: str, tokenizer: Tokenizer, choices: int, echoes: Sequence[str] | None
    ) -> None:
        """`echoes` has the prompt of each choice, if they are part of their texts."""
        super().__init__(model, tokenizer, choices)
        self.echoes = echoes
        self.offsets: dict[int, int] = {}

    def whole(self, tickets: Sequence[Ticket], news: Sequence[Sequence[News]]) -> dict[str, Any]:
        """Return the answer with all choices."""
        choices = [
            self._choice(number, self._echo(number), own, reason_of(ticket))
            for number, (ticket, own) in enumerate(zip(tickets, news, strict=True))
        ]
        return self._object(self.kind, choices, usage=usage_of(tickets, self.choices))

    def opening(self, number: int) -> dict[str, Any] | None:
        """Return the prompt, if it is part of the text."""
        echo = self._echo(number)
        if not echo:
            return None
        return self._object(self.kind, [self._choice(number, echo, (), None)])

    def event(self, number: int, news: Sequence[News], reason: str | None) -> dict[str, Any]:
        """Return an event with what is new in a choice, and why it has ended."""
        return self._object(self.kind, [self._choice(number, "", news, reason)])

    def _echo(self, number: int) -> str:
        return "" if self.echoes is None else self.echoes[number]

    def _choice(
        self, number: int, before: str, news: Sequence[News], reason: str | None
    ) -> dict[str, Any]:
        self.offsets.setdefault(number, len(self._echo(number)))
        return {
            "index": number,
            "text": before + "".join(one.piece for one in news),
            "logprobs": self._logprobs(number, news),
            "finish_reason": reason,
        }

    def _logprobs(self, number: int, news: Sequence[News]) -> dict[str, Any] | None:
        told = [one.logprob for one in news if one.logprob is not None]
        if not told:
            return None
        names, offsets = [self._name(one.token_id) for one in told], []
        for name in names:
            offsets.append(self.offsets[number])
            self.offsets[number] += len(name)
        tops = [{self._name(token): value for token, value in one.top} for one in told]
        return {
            "tokens": names,
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }


class Chat(_Form):
    """The form of `/v1/chat/completions`."""

    prefix, kind, kind_of_events = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        choices: int,
        reader: Callable[[], Reader],
        token_bytes: Sequence[bytes] = (),
    ) -> None:
        """Begin.

        `reader` makes what parts the text of a choice; `token_bytes` has what each id writes, for
        log-probabilities.
        """
        super().__init__(model, tokenizer, choices)
        self.token_bytes = token_bytes
        self.readers = [reader() for _ in range(choices)]
        self.called = [0] * choices

    def whole(self, tickets: Sequence[Ticket], news: Sequence[Sequence[News]]) -> dict[str, Any]:
        """Return the answer with all choices."""
        choices = [
            self._whole_choice(number, own, reason_of(ticket))
            for number, (ticket, own) in enumerate(zip(tickets, news, strict=True))
        ]
        return self._object(self.kind, choices, usage=usage_of(tickets, self.choices))

    def opening(self, number: int) -> dict[str, Any] | None:
        """Return whose text it is."""
        return self._event(number, {"role": "assistant", "content": ""}, None, None)

    def event(self, number: int, news: Sequence[News], reason: str | None) -> dict[str, Any] | None:
        """Return an event with what is new in a choice, and why it has ended."""
        delta = self._read(number, news, ends=reason is not None)
        told = any(one.logprob is not None for one in news)
        if not (delta or told or reason):
            return None  # it is not certain yet what this text is
        return self._event(number, delta, news, self._reason(number, reason))

    def _whole_choice(self, number: int, news: Sequence[News], reason: str) -> dict[str, Any]:
        found = self._read(number, news, ends=True)
        calls = [
            {name: value for name, value in call.items() if name != "index"}
            for call in found.get("tool_calls", ())
        ]
        content = None if calls else ""
        message = {"role": "assistant", "content": content, "refusal": None, **found}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": number,
            "message": message,
            "logprobs": self._logprobs(news),
            "finish_reason": self._reason(number, reason),
        }

    def _read(self, number: int, news: Sequence[News], *, ends: bool) -> dict[str, Any]:
        """Return what is new in a choice, part by part."""
        reader = self.readers[number]
        found = [reader.push("".join(one.piece for one in news))]
        if ends:
            found.append(reader.finish())
        calls = [self._call(number, call) for said in found for call in said.calls]
        parts = {
            "reasoning_content": "".join(said.thought for said in found),
            "content": "".join(said.content for said in found),
            "tool_calls": calls,
        }
        return {name: part for name, part in parts.items() if part}

    def _call(self, number: int, call: ToolCall) -> dict[str, Any]:
        index, self.called[number] = self.called[number], self.called[number] + 1
        return {
            "index": index,
            "id": secrets.token_hex(LENGTH_OF_ID)[:LENGTH_OF_ID],
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def _reason(self, number: int, reason: str | None) -> str | None:
        return "tool_calls" if reason == "stop" and self.called[number] else reason

    def _event(
        self, number: int, delta: dict[str, Any], news: Sequence[News] | None, reason: str | None
    ) -> dict[str, Any]:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": self._logprobs(news or ()),
            "finish_reason": reason,
        }
        return self._object(self.kind_of_events, [choice])

    def _logprobs(self, news: Sequence[News]) -> dict[str, Any] | None:
        told = [one.logprob for one in news if one.logprob is not None]
        if not told:
            return None
        return {"content": [self._token(one) for one in told], "refusal": None}

    def _token(self, one: TokenLogprob) -> dict[str, Any]:
        tops = [self._entry(token, value) for token, value in one.top]
        return self._entry(one.token_id, one.logprob) | {"top_logprobs": tops}

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        own = self.token_bytes[token] or self._name(token).encode()  # special tokens have none
        return {"token": own.decode(errors="replace"), "logprob": value, "bytes": list(own)}
