"""`edgegpt chat`: talk with a model in a terminal, or through a pipe."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.errors import EdgeGPTError

from .chat_lines import Commands, help_text
from .console import waiting
from .engine_options import engine_options
from .sampling_options import LIVELY, sampling_options

if TYPE_CHECKING:
    from edgegpt import Result
    from edgegpt.runtime.chat import Conversation

__all__ = ["command"]

EXAMPLES = """\b
Examples:
  edgegpt chat build/smollm2
  edgegpt chat bundle --system "Answer in one sentence." --temperature 0.3
  echo "What is the capital of France?" | edgegpt chat bundle
"""


@click.command(
    help="Chat with a bundle that has a chat template. In a pipe, each line is a message, and each "
    "answer a line or more; a line that begins with / is a command: see /help.",
    epilog=EXAMPLES,
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--system", help="the system's message")
@click.option("-n", "--max-new-tokens", type=int, help="of an answer; default: what is left")
@sampling_options(f"0: most likely; default: the bundle's, else {LIVELY}")
@click.option("--context", type=int, help="tokens the model sees; default: its block size")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="print each answer as JSON")
def command(
    bundle: Path,
    system: str | None,
    context: int | None,
    engine: Any,
    as_json: bool,
    **settings: Any,
) -> None:
    """Chat; `settings` are arguments of `LanguageModel.stream` by their own names."""
    import edgegpt
    from edgegpt.runtime.chat import Conversation

    with waiting(f"opening {bundle}"):
        opened = edgegpt.load(bundle, context=context, upgrade=False, **asdict(engine))
    given = {name: value for name, value in settings.items() if value is not None}
    with opened as model:
        if model.usage.sampling.temperature is None:
            given.setdefault("temperature", LIVELY)
        chat = Conversation(model, system, **given)
        commands = Commands(chat, as_json=as_json)
        lines = _typed(chat) if sys.stdin.isatty() and sys.stdout.isatty() else _piped()
        for line in lines:
            if not line.strip():
                continue
            try:
                if line.startswith("/"):
                    if not commands.run(line):
                        return
                else:
                    _answer(chat, line, commands)
            except EdgeGPTError as error:
                click.echo(f"{error}", err=True)


def _piped() -> Iterator[str]:
    """Yield the lines of stdin."""
    for line in sys.stdin:
        yield line.rstrip("\r\n")


def _typed(chat: "Conversation") -> Iterator[str]:
    """Yield what somebody types; Alt-Enter or Ctrl-J makes a new line, Ctrl-D ends."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(key_bindings=keys)
    click.echo(help_text(short=True), err=True)
    while True:
        try:
            yield session.prompt("> ", bottom_toolbar=_left(chat))
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _left(chat: "Conversation") -> str:
    """Return how much room there is; nothing where the template takes no such history."""
    try:
        return f"{chat.left} tokens left"
    except EdgeGPTError:
        return ""


def _answer(chat: "Conversation", line: str, commands: Commands) -> None:
    """Say something, and show the answer as it comes; Ctrl-C ends the answer."""
    settings = {"max_new_tokens": max(1, chat.model.context)} | chat.settings
    pieces = chat.stream(line, **settings)
    if commands.as_json:
        with suppress(KeyboardInterrupt):
            for _ in pieces:
                pass
    elif sys.stdout.isatty():
        _show(pieces)
    else:
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()
    result = chat.result
    assert result is not None, "the answer has ended"
    commands.told(result)
    if sys.stdout.isatty():
        click.echo(click.style(_pace(chat, result), dim=True))


def _show(pieces: Iterator[str]) -> None:
    """Show an answer as Markdown while it grows."""
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown

    text = ""
    with Live(console=Console(), refresh_per_second=8, vertical_overflow="visible") as live:
        try:
            for piece in pieces:
                text += piece
                live.update(Markdown(text))
        except KeyboardInterrupt:
            with suppress(RuntimeError):
                pieces.close()  # type: ignore[attr-defined]


def _pace(chat: "Conversation", result: "Result") -> str:
    timings = result.timings
    end = "" if result.finish_reason in ("eos", "stop") else f", ended by {result.finish_reason}"
    return (
        f"{timings.tokens_per_second:.1f} tokens/s, the first after {timings.first_token_s:.2f} s, "
        f"{_left(chat)}{end}"
    )
