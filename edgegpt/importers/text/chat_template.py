"""Find the chat template of a Hugging Face folder. It is carried as text, and not run here."""

from pathlib import Path
from typing import Any

from edgegpt.runtime.bundle.bundle import LARGEST_TEMPLATE

from ...errors import CheckpointError
from ...user_files import read_optional, read_text
from .backend import listed

__all__ = ["chat_template_of", "checked_template"]

MORE = "additional_chat_templates"  # a folder beside chat_template.jinja


def chat_template_of(folder: Path, config: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return the template of the folder, or None, and notes on others that it has.

    A file chat_template.jinja outranks tokenizer_config.json, whose content is `config`, and that
    outranks chat_template.json.
    """
    others = sorted(path.stem for path in (folder / MORE).glob("*.jinja"))
    template: Any = read_text(folder / "chat_template.jinja", LARGEST_TEMPLATE)
    if template is None:
        template = config.get("chat_template")
    if template is None:
        template = read_optional(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = _named(template, folder)
        template = named.pop("default", None)
        others += sorted(named)
    notes = (f"chat templates left out: {listed(others)}",) if others else ()
    return checked_template(template, f"the chat template in {folder}"), notes


def checked_template(template: Any, where: str) -> str | None:
    """Return a template that is a text of bounded size, or None."""
    if template is None:
        return None
    if not isinstance(template, str):
        raise CheckpointError(f"{where} is not a text")
    if len(template.encode("utf-8", "replace")) > LARGEST_TEMPLATE:
        raise CheckpointError(
            f"{where} has {len(template):,} characters; at most {LARGEST_TEMPLATE:,} bytes are read"
        )
    return template


def _named(templates: list[Any], folder: Path) -> dict[str, Any]:
    """Return the templates of a list of {name, template}, by name."""
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in templates):
        raise CheckpointError(f"tokenizer_config.json in {folder}: a chat template has no name")
    return {one["name"]: one.get("template") for one in templates}
