"""The options of beam search and of the edits of logits, which several commands have."""

from collections.abc import Callable
from typing import Any

import click

from edgegpt.runtime.bundle.search import LARGEST_LENGTH_PENALTY, MOST_BEAMS

from .number import Number

__all__ = ["search_options"]

EARLY_STOPPING: dict[str | None, bool | str | None] = {
    None: None,
    "false": False,
    "true": True,
    "never": "never",
}


def search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; they arrive as arguments of `LanguageModel.generate`."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--num-beams",
        "--beams",
        type=click.IntRange(1, MOST_BEAMS),
        help="search the best text with so many beams; default: the bundle's, else 1",
    ),
    click.option(
        "--length-penalty",
        type=Number(-LARGEST_LENGTH_PENALTY, LARGEST_LENGTH_PENALTY),
        help="with beams; default: the bundle's, else 1",
    ),
    click.option(
        "--early-stopping",
        type=click.Choice(["false", "true", "never"]),
        callback=lambda _, __, value: EARLY_STOPPING[value],
        help="with beams: when to end the search; default: the bundle's, else false",
    ),
    click.option("--no-repeat-ngram-size", type=int, help="no so many ids occur twice; 0: any may"),
    click.option(
        "--min-new-tokens", type=int, help="an end id comes after so many at the earliest"
    ),
    click.option("--forced-bos", type=int, help="token id that comes first"),
    click.option(
        "--source-language", help="code of the language to read, for models that know codes"
    ),
    click.option("--target-language", help="code of the language to write, likewise"),
)
