"""The `edgegpt` command: finds the subcommand's module and turns errors into exit codes.

Each subcommand is one module in `edgegpt/commands/`, imported only when it is used, so that
`edgegpt --help` needs neither PyTorch nor an engine.
"""

import importlib
import io
import logging
import os
import signal
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import PurePath
from typing import Any, NoReturn

import click

from edgegpt.runtime.packages import pip_install

from . import __version__
from .errors import EdgeGPTError, EngineError, ExportError, InvalidInputError
from .exit_codes import FAILURE, INTERRUPTED
from .log import logged
from .option_names import in_options

__all__ = ["cli", "main"]

# name -> (module in edgegpt.commands, line for --help)
COMMANDS = {
    "train": ("train", "Train a model on a text file."),
    "import": ("import_", "Read a checkpoint of another layout."),
    "export": ("export", "Turn a checkpoint into a bundle, and prove it."),
    "build": ("build", "Build an engine of a bundle for this device."),
    "verify": ("verify", "Compare a bundle's engine with its golden vectors."),
    "eval": ("eval", "Measure a model's loss on a text."),
    "generate": ("generate", "Continue a prompt, or make a text from a source."),
    "translate": ("translate", "Translate lines of text."),
    "chat": ("chat", "Talk with a model."),
    "serve": ("serve", "Serve a bundle over HTTP, as OpenAI's API does."),
    "bench": ("bench", "Measure how fast a bundle runs here."),
    "inspect": ("inspect", "Show what is inside a bundle."),
    "doctor": ("doctor", "Show what works on this machine, and what mends the rest."),
    "cache": ("cache", "Show or remove what is kept on the disk."),
    "pack": ("pack", "Write a bundle as one file."),
    "unpack": ("unpack", "Write a packed bundle to a folder."),
}
LOG_LINE = "%(asctime)s %(levelname)-5s %(name)s: %(message)s"
PRINTERS = {("click", "utils.py"), ("rich", "console.py")}
# Package that a command could not import -> the extra that installs it.
EXTRA_OF_PACKAGE = {
    "torch": "train,export",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "onnxruntime": "cpu",
    "starlette": "serve",
    "uvicorn": "serve",
    "prompt_toolkit": "chat",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
}


class LazyGroup(click.Group):
    """A group whose help comes from the table above and whose commands load on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work: train, export, prove, run."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand's module and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgegpt.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        if VERBOSE not in command.params:
            command.params.append(VERBOSE)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; name those that look like one that is not there."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = get_close_matches(args[0], COMMANDS)
            if not close:
                raise
            told = f"{error.message} Did you mean {' or '.join(close)}?"
            raise click.UsageError(told, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; its errors name settings as its options do."""
        try:
            return super().invoke(ctx)
        except (InvalidInputError, EngineError, ExportError) as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if command is None:
                raise
            raise type(error)(in_options(str(error), command.params)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _be_verbose(context: click.Context, _: click.Parameter, count: int) -> None:
    if count:
        level = logging.INFO if count == 1 else logging.DEBUG
        context.with_resource(logged(level, partial(click.echo, err=True), LOG_LINE))


# Also after the name of a command, where people write it.
VERBOSE = click.Option(
    ["-v", "--verbose"],
    count=True,
    expose_value=False,
    callback=_be_verbose,
    help="Tell on stderr what the runtime does; -vv: details, too.",
)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgegpt")
def cli() -> None:
    """Train it, export it, prove it, run it: transformers on edge devices."""


cli.params.append(VERBOSE)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    warnings.showwarning = _show_warning
    _fill_closed_streams()
    _let_all_characters_out()
    try:
        _check_stdout()
        with _ended_politely():
            status = cli.main(arguments, prog_name="edgegpt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _stop()
    except EdgeGPTError as error:
        if _is_interrupt(error):
            _stop()
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, so there is nobody to report to
        sys.exit(FAILURE)
    except MemoryError:
        _fail("the memory is used up: give the command less, or more memory")
    except OSError as error:
        where = error.filename or _printing(error)
        _fail(f"{where}{': ' if where else ''}{error.strerror or error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF_PACKAGE:
            raise
        extra = EXTRA_OF_PACKAGE[package]
        _fail(f"this command needs {package}, which is not installed: {pip_install(extra)}")
    sys.exit(status if isinstance(status, int) else 0)


def _fill_closed_streams() -> None:
    """Let a closed stream be the null device, so that no file that is opened gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdin is None:  # stdout and stderr may be None: click prints nothing then
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - until the command ends


def _let_all_characters_out() -> None:
    """Write UTF-8 where the output is no terminal, on all systems, as commands read UTF-8.

    A terminal keeps its encoding, and PYTHONIOENCODING chooses another one. What that lacks is
    written as an escape: a text of a model has any character.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # closed, or a caller's own
            continue
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
        if not (stream.isatty() or os.environ.get("PYTHONIOENCODING")):
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


def _check_stdout() -> None:
    """Refuse, before the work, to print to a file on a disk that is full."""
    try:
        number = sys.stdout.fileno()
        full = stat.S_ISREG(os.fstat(number).st_mode) and os.fstatvfs(number).f_bavail == 0
    except (AttributeError, OSError, ValueError):  # closed, no file, or a system without it
        return
    if full:
        raise InvalidInputError("stdout is a file on a full disk: make room, or print elsewhere")


def _printing(error: OSError) -> str:
    """Return "stdout" if an error that names no file came from printing."""
    frames = traceback.extract_tb(error.__traceback__)
    modules = {PurePath(frame.filename).parts[-2:] for frame in frames}
    return "stdout" if modules & PRINTERS else ""


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Let SIGTERM act as Ctrl-C does, so that temporary files are removed and builds stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C led to an error: C++ code that is being imported makes another one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _stop() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(INTERRUPTED)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(FAILURE)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print our own warnings as one line; libraries' warnings are for developers."""
    if category.__module__.startswith("edgegpt."):
        click.echo(f"warning: {message}", err=True)
