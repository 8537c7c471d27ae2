"""`edgegpt chat`: talk with a model in a terminal, or through a pipe."""

import io
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgegpt.errors import EdgeGPTError, InvalidInputError

from .chat_lines import PROBE, Commands, help_text, room
from .console import waiting
from .engine_options import engine_options
from .given_path import PATH
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
    "answer a line or more; a line that begins with / is a command: see /help. Exit code 1 if a "
    "line from a pipe could not be answered or done.",
    epilog=EXAMPLES,
)
@click.argument("bundle", type=PATH)
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
) -> int:
    """Chat; `settings` are arguments of `LanguageModel.stream` by their own names.

    Exit code 1 if a line from a pipe failed.
    """
    import edgegpt
    from edgegpt.runtime.chat import Conversation

    with waiting(f"opening {bundle}"):
        opened = edgegpt.load(bundle, context=context, upgrade=False, **asdict(engine))
    given = {name: value for name, value in settings.items() if value is not None}
    with opened as model:
        if model.usage.sampling.temperature is None:
            given.setdefault("temperature", LIVELY)
        model.stream(PROBE, **given)  # a wrong setting is told now, not with each message
        chat = Conversation(model, system, **given)
        commands = Commands(chat, as_json=as_json)
        typed = sys.stdin.isatty() and sys.stdout.isatty()
        if typed:  # where Ctrl-C ends an answer only
            signal.signal(signal.SIGTERM, _leave)
        failed = False
        for line in _typed(chat) if typed else _piped():
            try:
                if not _go_on(line, chat, commands):
                    break
            except EdgeGPTError as error:
                click.echo(f"{error}", err=True)
                failed = True
            except KeyboardInterrupt:
                if not typed:
                    raise
    return 1 if failed and not typed else 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _go_on(line: str, chat: "Conversation", commands: Commands) -> bool:
    """Answer a line, or do what it says; return whether the chat goes on."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("this line is not UTF-8, and is left out") from error
    if line.startswith("/"):
        return commands.run(line)
    if line.strip():
        _answer(chat, line, commands)
    return True


def _piped() -> Iterator[str]:
    """Yield the lines of stdin; bytes that are not UTF-8 become surrogates."""
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
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
            yield session.prompt("> ", bottom_toolbar=room(chat))
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _answer(chat: "Conversation", line: str, commands: Commands) -> None:
    """Say something, and show the answer as it comes; after an interrupt, too, it is kept so far.

    Raises:
        KeyboardInterrupt: as it came.
    """
    from edgegpt.runtime.text.thoughts import apart

    settings = {"max_new_tokens": max(1, chat.model.context)} | chat.settings
    pieces, before = chat.stream(line, **settings), chat.result
    try:
        if commands.as_json:
            for _ in pieces:
                pass
        elif sys.stdout.isatty():
            _show(apart(pieces, chat.thoughts))
        else:
            for piece in pieces:
                click.echo(piece, nl=False)
    finally:
        pieces.close()
        if chat.result is not None and chat.result is not before:  # it had begun
            _tell(chat, chat.result, commands)


def _tell(chat: "Conversation", result: "Result", commands: Commands) -> None:
    """Tell about an answer that has ended."""
    if commands.as_json:
        commands.told(result)
    elif not sys.stdout.isatty():
        click.echo()
    if sys.stdout.isatty():
        click.echo(click.style(_pace(chat, result), dim=True))


def _show(pieces: Iterable[tuple[bool, str]]) -> None:
    """Show an answer as Markdown while it grows, and dimmed before it what the model thinks."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.markdown import Markdown
    from rich.text import Text

    thought = Text(style="dim")
    answer = ""
    with Live(console=Console(), refresh_per_second=8, vertical_overflow="visible") as live:
        for thinks, piece in pieces:
            if thinks:
                thought.append(piece)
            else:
                answer += piece
            live.update(Group(thought, Markdown(answer)) if thought else Markdown(answer))


def _pace(chat: "Conversation", result: "Result") -> str:
    timings = result.timings
    end = "" if result.finish_reason in ("eos", "stop") else f", ended by {result.finish_reason}"
    return (
        f"{timings.tokens_per_second:.1f} tokens/s, the first after {timings.first_token_s:.2f} s, "
        f"{room(chat)}{end}"
    )
