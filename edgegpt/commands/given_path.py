"""Paths of the command line."""

from pathlib import Path
from typing import Any

import click

__all__ = ["PATH", "GivenPath"]


class GivenPath(click.Path):
    """A path that says something. To Python, an empty one would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if value == "":
            self.fail("The path is empty.", param, ctx)
        return super().convert(value, param, ctx)


PATH = GivenPath(path_type=Path)
