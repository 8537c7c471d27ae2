"""The engine options of every command that runs a bundle."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

__all__ = ["engine_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """Give a command --backend, --threads, --tf32, --cuda-graph/--no-cuda-graph and --cache.

    They reach it as one argument, `engine`, an `EngineOptions`.
    """

    @wraps(command)
    def with_engine(
        *arguments: Any,
        backend: str,
        threads: int | None,
        tf32: bool,
        cuda_graph: bool,
        cache: str | None,
        **others: Any,
    ) -> Any:
        from edgegpt.runtime.engines.options import EngineOptions

        engine = EngineOptions(backend, threads, tf32, cuda_graph, cache)
        return command(*arguments, engine=engine, **others)

    options = (
        click.option(
            "--backend",
            default="auto",
            show_default=True,
            help="auto, cpu, native, cuda, tensorrt or tensorrt-rtx",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), help="default: the cores, but for little ones"
        ),
        click.option("--tf32", is_flag=True, help="let CUDA round float32 products to TF32"),
        click.option(
            "--cuda-graph/--no-cuda-graph",
            default=True,
            show_default=True,
            help="let CUDA replay decode steps as graphs",
        ),
        click.option(
            "--cache",
            type=click.Choice(["float32", "float16"]),
            help="type of keys and values of the backend native; default: float32",
        ),
    )
    decorated: Any = with_engine
    for option in reversed(options):
        decorated = option(decorated)
    return cast(Command, decorated)
