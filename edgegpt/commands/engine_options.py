"""The options of every command that runs a bundle: on which engine, and how."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["engine_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """Give a command --backend, --threads, --tf32 and --cuda-graph/--no-cuda-graph."""
    options = (
        click.option(
            "--backend",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda, tensorrt or tensorrt-rtx",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="default: the physical cores"),
        click.option("--tf32", is_flag=True, help="let CUDA round float32 products to TF32"),
        click.option(
            "--cuda-graph/--no-cuda-graph",
            default=True,
            show_default=True,
            help="let CUDA replay decode steps as graphs",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
