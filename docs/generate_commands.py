"""Writes docs/commands.md: the help of every command, at a fixed width. `make docs` runs it."""

from pathlib import Path

import click

from edgegpt.cli import cli

__all__ = ["PAGE", "text"]

PAGE = Path(__file__).with_name("commands.md")
WIDTH = 100  # characters

INTRODUCTION = """# Commands

What `edgegpt COMMAND --help` says. `make docs` writes this page.
"""


def text() -> str:
    """Return the page as it should be."""
    top = click.Context(cli, info_name="edgegpt", terminal_width=WIDTH, **cli.context_settings)
    parts = [INTRODUCTION, _section("edgegpt", cli.get_help(top))]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None, name
        context = click.Context(command, parent=top, info_name=name)
        parts.append(_section(f"edgegpt {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, told: str) -> str:
    return f"## {title}\n\n```\n{told}\n```\n"


if __name__ == "__main__":
    PAGE.write_bytes(text().encode())
