"""Numbers of the command line."""

import math
from typing import Any

import click

__all__ = ["Number"]


class Number(click.FloatRange):
    """A number within a range. Click's own range lets NaN pass, and infinity where it is open."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is no number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number
