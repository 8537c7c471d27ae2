"""The options of beam search, which several commands have."""

from collections.abc import Callable
from typing import Any

__all__ = ["search_options"]


def search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; they arrive as arguments of `LanguageModel.generate`."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = ()
