"""Say a library's error in the words of a command: settings by the names of their options."""

import re
from collections.abc import Iterable

import click

__all__ = ["in_options"]

SAID = "(?:is|must|needs|cannot|does|above)"  # what follows a setting


def in_options(message: str, parameters: Iterable[click.Parameter]) -> str:
    """Return a message in which the command's options stand for the settings they are.

    A setting is a name that is no word, such as `num_beams` or `beta1`, or any name before a value:
    `overflow="slide"` becomes `--overflow slide`. Any name at the beginning is one, too, if the
    message goes on as those of settings do: "out of memory" and "chat templates need" do not.
    """
    options = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in parameters
        if isinstance(parameter, click.Option) and parameter.name
    }
    names = "|".join(map(re.escape, options))
    apart = "|".join(re.escape(name) for name in options if not name.isalpha()) or "(?!)"
    setting = re.compile(  # none of them within a path, or where somebody's own words are quoted
        rf"""(?<![\w./\\"'-])(?:(?P<valued>{names})=(?:"(?P<text>\w+)"|(?=\w))"""
        rf"""|(?P<apart>{apart})(?![\w./\\-])|\A(?P<first>{names})(?=\ {SAID}\b))"""
    )

    def said(found: re.Match[str]) -> str:
        option = options[found["valued"] or found["apart"] or found["first"]]
        return f"{option} {found['text'] or ''}" if found["valued"] else option

    return setting.sub(said, message)
