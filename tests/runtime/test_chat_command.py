"""`edgegpt chat` through a pipe: messages in, answers out, commands between them."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.commands import chat as chat_command
from edgegpt.runtime.chat import Conversation
from edgegpt.runtime.generation.run import Stream

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}"
SHORT = {"max_new_tokens": 2, "temperature": 0.9, "seed": 4}
OPTIONS = ("--max-new-tokens", 2, "--temperature", 0.9, "--seed", 4, "--backend", "cpu")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def invoke(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return invoke


@pytest.fixture
def bundle(altered_bundle: Any) -> Path:
    return altered_bundle(files={"chat_template.jinja": TEMPLATE.encode()})


@pytest.fixture
def talk(run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def talk(*lines: str, options: tuple = ()) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", bundle, *OPTIONS, *options)

    return talk


def answers(bundle: Path, *turns: str) -> list[str]:
    with edgegpt.load(bundle, "cpu") as model:
        chat = Conversation(model, **SHORT)
        return [str(chat.say(turn).text) for turn in turns]


def test_messages_are_answered(talk: Any, bundle: Path) -> None:
    done = talk("r", "", "a")
    assert done.code == 0
    assert done.out == "".join(f"{text}\n" for text in answers(bundle, "r", "a"))


def test_turns_are_taken_back_and_forgotten(talk: Any, bundle: Path) -> None:
    first, second = answers(bundle, "r", "a")
    done = talk("r", "a", "/undo", "a", "/reset", "r", "/undo", "/undo")
    assert done.out.split("\n")[:4] == "\n".join([first, second, second, first]).split("\n")[:4]
    assert done.err.endswith("there is no turn\n")


def test_a_history_is_written_and_read(talk: Any, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    talk("r", f"/save {file}")
    messages = json.loads(file.read_text())
    assert [one["role"] for one in messages] == ["user", "assistant"]
    done = talk(f"/load {file}", "a")
    assert done.out == answers(bundle, "r", "a")[1] + "\n"


def test_answers_are_json_if_wanted(talk: Any) -> None:
    done = talk("r", "/json", "a", options=("--json",))
    first = json.loads(done.out.splitlines()[0])
    assert len(first["token_ids"]) == 2
    assert first["reused_tokens"] == 0
    assert "answers are text" in done.err


def test_settings_change_and_wrong_ones_do_not(talk: Any) -> None:
    done = talk(
        "/set max_new_tokens 1", "r", "/set temperature -1", "/set nonsense 1", "/set seed x"
    )
    assert len(done.out) == 2
    assert "max_new_tokens is 1\n" in done.err
    assert "temperature is -1; it must be a number 0 or more" in done.err
    assert "/set knows temperature" in done.err
    assert "'x' is no number" in done.err


def test_what_cannot_be_done_is_said_and_the_chat_goes_on(talk: Any, tmp_path: Path) -> None:
    done = talk("/fly", "/load", f"/load {tmp_path}/none", "/drop x", "/system", "Ω", "/exit", "r")
    assert done.code == 1
    assert done.out == ""
    for complaint in (
        "there is no /fly",
        "the path of a file",
        "cannot read",
        "a number",
        "a text",
    ):
        assert complaint in done.err
    assert "Ω" in done.err


SLIPS = {
    "/save ~nobody-here/x": "there is no user of this name: '~nobody-here/x'",
    "/load ~nobody-here/x": "there is no user of this name: '~nobody-here/x'",
    "/save /nowhere/x": "cannot write /nowhere/x: No such file or directory",
    "/save a\0b": "cannot write a\0b: embedded null byte",
    "/drop " + "9" * 5000: "/drop needs a number, not '9999",
    "/drop -1": "-1 turns cannot be dropped",
    "/drop ²": "/drop needs a number, not '²'",
    "/drop 99999999999999": "0 forgotten, 32 tokens left",
    "/set seed " + "[" * 100_000: "'[[[",
    "/set seed " + "9" * 5000: "'9999",
    "/set temprature 1": "not 'temprature'; did you mean temperature?",
    "/set top 1": "did you mean top_p or top_k?",
    "/sytem x": "there is no /sytem; did you mean /system",
    "/exti": "there is no /exti; did you mean /exit",
    "/" + "x" * 5000: "xxx; /help lists what there is",
    "a" * 10**6: "the chat has at least 1000003 tokens, and the context 32: drop its oldest",
    "a\udcffb": "this line is not UTF-8, and is left out",
    "/system a\udcffb": "this line is not UTF-8, and is left out",
}


@pytest.mark.parametrize("line", SLIPS, ids=lambda line: line[:20].encode("ascii", "replace"))
def test_a_slip_is_told_in_a_sentence_and_the_chat_goes_on(talk: Any, line: str) -> None:
    done = talk(line, "r")
    assert done.code == (0 if "forgotten" in SLIPS[line] else 1)
    assert SLIPS[line] in done.err
    assert done.err.count("\n") == 1
    assert len(done.err) < 250
    assert len(done.out) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_that_are_not_utf_8_are_left_out(
    run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    lines = io.BytesIO("\ufeffr\n".encode() + b"a\xff\xfe\n" + "/drop ²\na\n".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(lines, encoding=encoding))
    done = run("chat", bundle, *OPTIONS)
    assert done.out == "".join(f"{text}\n" for text in answers(bundle, "r", "a"))
    assert done.err == "this line is not UTF-8, and is left out\n/drop needs a number, not '²'\n"


def test_an_interrupt_ends_a_chat_in_a_pipe(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter(["x"])

    def interrupted(stream: Stream) -> str:
        for piece in pieces:
            return piece
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "__next__", interrupted)
    for options in ((), ("--json",)):
        done = talk("r", "a", options=options)
        assert (done.code, done.err.strip()) == (130, "interrupted")
        assert done.out.count("\n") == 1


@pytest.fixture
def type_in(run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that chats as in a terminal; `show` shows an answer."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def type_in(*lines: str, show: Any) -> Outcome:
        monkeypatch.setattr("sys.stdin", Terminal())
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(chat_command, "_typed", lambda _: iter(lines))
        monkeypatch.setattr(chat_command, "_show", show)
        before = signal.getsignal(signal.SIGTERM)
        try:
            return run("chat", bundle, *OPTIONS)
        finally:
            assert signal.getsignal(signal.SIGTERM) == before

    return type_in


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_ends_an_answer_in_a_terminal_also_before_it_begins(
    type_in: Any, tmp_path: Path, begun: bool
) -> None:
    def show(pieces: Any) -> None:
        if begun:
            next(pieces)
        raise KeyboardInterrupt

    done = type_in("r", f"/save {tmp_path}/chat.json", show=show)
    assert done.code == 0
    messages = json.loads((tmp_path / "chat.json").read_text())
    assert [len(one["content"]) for one in messages] == ([1, 1] if begun else [])
    assert ("ended by closed" in done.out) == begun
    assert (
        bool(re.search(r"[\d.]+ tokens/s, the first after .* s, \d+ tokens left", done.out))
        == begun
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_sigterm_ends_a_chat_that_waits_in_a_terminal(bundle: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edgegpt", "chat", str(bundle), "--backend", "cpu"]
    settings = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | settings,
        start_new_session=True,
    )
    os.close(theirs)

    def read() -> bytes:
        assert select.select([ours], [], [], 120)[0], "it does not answer"
        try:
            return os.read(ours, 65536)
        except OSError:  # as Linux tells that the other end is closed
            return b""

    seen = b""
    try:
        while b"\x1b[?2004h" not in seen:  # from here on a terminal marks what is pasted
            assert process.poll() is None, seen
            seen += read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM
        assert b"Traceback" not in seen + read()
    finally:
        process.kill()
        os.close(ours)


def test_a_full_chat_is_told_and_can_go_on(talk: Any) -> None:
    done = talk(*["wind"] * 8, "/drop 99", "r")
    assert "drop its oldest turns (`drop_oldest`, or /drop in a terminal)" in done.err
    assert "forgotten, 32 tokens left" in done.err
    assert done.out.count("\n") >= 3


def test_a_bundle_without_a_template_is_refused(run: Any, small_bundle: Path) -> None:
    done = run("chat", small_bundle)
    assert done.code == 1
    assert "no chat template" in done.err


def test_what_a_model_thinks_is_shown_dimmed_before_its_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    chat_command._show(iter([(True, "two and "), (True, "two"), (False, "**4**"), (False, ".")]))
    shown = capsys.readouterr().out
    assert "\x1b[2mtwo and two\x1b[0m" in shown
    assert re.search(r"\x1b\[1m4\x1b\[0m\.", shown)  # the answer is Markdown, and not dimmed


def test_an_impossible_setting_is_told_before_the_first_message(talk: Any) -> None:
    done = talk("r", "a", options=("--top-p", 2))
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: --top-p is 2.0; it must be a number above 0 and at most 1\n"
