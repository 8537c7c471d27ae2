"""The options that tell how tokens are chosen, for commands that write texts."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

__all__ = ["LIVELY", "sampling_options"]

LIVELY = 0.8  # a temperature at which small models write their best; at 0 they repeat themselves

Command = TypeVar("Command", bound=Callable[..., Any])


def sampling_options(temperature_help: str) -> Callable[[Command], Command]:
    """Give a command the sampling arguments of `LanguageModel.generate`, by their own names."""
    options = (
        click.option("-t", "--temperature", type=float, help=temperature_help),
        click.option(
            "--top-k",
            type=int,
            help="sample among the k most likely, 0: all; default: the bundle's",
        ),
        click.option("--top-p", type=float, help="nucleus sampling; default: the bundle's, else 1"),
        click.option(
            "--min-p", type=float, help="relative to the best; default: the bundle's, else 0"
        ),
        click.option("--repetition-penalty", type=float, help="default: the bundle's, else 1"),
        click.option("-s", "--seed", type=int, help="of the random numbers; default: a new one"),
    )

    def decorate(command: Command) -> Command:
        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return cast(Command, decorated)

    return decorate
