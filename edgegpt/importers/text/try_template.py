"""Try a chat template once, so that one which cannot be used is known when a model is imported."""

from edgegpt.runtime.text.chat_template import ChatTemplate

from ...errors import BundleError, InvalidInputError

__all__ = ["template_notes"]

TRIAL = [{"role": "user", "content": "Hello!"}]


def template_notes(template: str | None, special_tokens: dict[str, str]) -> tuple[str, ...]:
    """Return a note on a template that does not compile or does not render, or nothing.

    It runs in the sandbox in which the runtime runs it. Without jinja2 it is not tried.
    """
    if template is None:
        return ()
    try:
        ChatTemplate(template, "chat_template.jinja", special_tokens).render(TRIAL)
    except BundleError as error:
        return (f"{error}: apply_chat_template will refuse it; prompts as text do not need it",)
    except InvalidInputError:  # there is no jinja2, or the template wants other messages
        return ()
    return ()
