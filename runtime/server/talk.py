"""A chat that a request asks to go on: from its fields to a prompt, and back to an answer."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import EdgeGPTError, InvalidInputError
from ..generation.call_grammar import calls_of, thoughts_rule
from ..generation.grammar import Form
from ..language_model import LanguageModel
from ..text.call_forms import CallForm
from ..text.chat_template import ChatPrompt
from ..text.reading import Reader
from ..text.tool_calls import Calls
from .asked import Asked
from .fields import Fields, table
from .messages import messages
from .problems import Problem
from .tools import Tools, tools

__all__ = ["Begun", "Talk"]

Begun = tuple[ChatPrompt, Asked, Callable[[], Reader]]
FIELDS = ("tools", "chat_template_kwargs")  # beside messages, what a template can refuse


class Talk:
    """The fields that only a chat has."""

    def __init__(self, fields: Fields) -> None:
        """Read them."""
        found = fields.take("messages", messages)
        if found is None:
            raise Problem("messages is missing", field="messages")
        self.messages: list[dict[str, Any]] = found
        self.tools: Tools | None = tools(fields)
        self.variables: dict[str, Any] = fields.take("chat_template_kwargs", table, {})

    def begin(self, model: LanguageModel, asked: Asked) -> Begun:
        """Return the prompt, how to go on from it, and what makes a reader for each choice.

        Raises:
            Problem: if there is no template, or it does not do what is asked for.
        """
        prompt = self._rendered(model)
        calls = None if self.tools is None else _form_of_calls(model)
        form = asked.wanted.form
        if self.tools is not None and calls is not None:
            form = _form_of_text(model, self.tools, calls, form)
        assert model.tokenizer is not None, "others are not served"
        if form is not None and prompt.thinks:
            form = form.after(thoughts_rule(model.tokenizer, begun=prompt.within_thoughts))
        wanted = replace(asked.wanted, form=form, shown=model.shown_after(prompt))
        return prompt, replace(asked, wanted=wanted), partial(self._reader, prompt, calls)

    def _rendered(self, model: LanguageModel) -> ChatPrompt:
        try:
            return model.apply_chat_template(
                self.messages,
                tools=None if self.tools is None else self.tools.listed,
                chat_template_kwargs=self.variables,
                special_tokens=False,
            )
        except EdgeGPTError as error:  # none there, or it refuses what it gets
            field = next((name for name in FIELDS if str(error).startswith(name)), "messages")
            folder = model.bundle.folder  # where it is on this machine is nobody's business
            said = str(error).replace(str(folder), folder.name)
            raise Problem(f"the chat template: {said}", field=field) from error

    def _reader(self, prompt: ChatPrompt, calls: CallForm | None) -> Reader:
        if self.tools is None or calls is None:
            return Reader(prompt.thoughts())
        most = None if self.tools.many else 1
        return Reader(prompt.thoughts(), Calls(calls, self.tools.schemas, most))


def _form_of_calls(model: LanguageModel) -> CallForm:
    """Return how the model writes calls."""
    template = model.chat_template
    if template.calls is None:
        why = "does not mention them"
        if template.takes_tools:
            why = "teaches a form of calls that this server does not know"
        raise Problem(
            f"tools is not supported: the bundle's chat template {why}",
            field="tools",
            code="unsupported_parameter",
        )
    return template.calls


def _form_of_text(
    model: LanguageModel, offered: Tools, calls: CallForm, form: Form | None
) -> Form | None:
    """Return the form of texts whose calls have to follow schemas, if they have to.

    `form` is that of answers which call nothing.
    """
    if not (offered.forced or offered.strict or form is not None):
        return None
    assert model.tokenizer is not None, "others are not served"
    schemas = {name: offered.schemas[name] for name in offered.forced or offered.schemas}
    forced = bool(offered.forced)
    if form is not None and not (forced or calls.begin):
        raise Problem(
            "response_format does not go with tools here: this model writes calls as JSON, without "
            'a mark; leave one of them out, or give tool_choice "none" or "required"',
            field="response_format",
        )
    try:
        return calls_of(
            calls, schemas, model.tokenizer, many=offered.many, forced=forced, otherwise=form
        )
    except InvalidInputError as error:
        raise Problem(str(error), field="tools") from error
