"""`edgegpt chat` through a pipe: messages in, answers out, commands between them."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.runtime.chat import Conversation

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
    assert done.code == 0
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


def test_a_full_chat_is_told_and_can_go_on(talk: Any) -> None:
    done = talk(*["wind"] * 8, "/drop 99", "r")
    assert "drop its oldest turns" in done.err
    assert "forgotten, 32 tokens left" in done.err
    assert done.out.count("\n") >= 3


def test_a_bundle_without_a_template_is_refused(run: Any, small_bundle: Path) -> None:
    done = run("chat", small_bundle)
    assert done.code == 1
    assert "no chat template" in done.err
