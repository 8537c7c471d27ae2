"""Chats: a turn computes what is new in it, and its answer is the one of the whole prompt."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import DataError, EngineError, InvalidInputError
from edgegpt.runtime.chat import Conversation

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}"
SHORT = {"max_new_tokens": 2, "temperature": 0.9, "seed": 4}


@pytest.fixture
def model(altered_bundle: Any) -> Iterator[LanguageModel]:
    folder = altered_bundle(files={"chat_template.jinja": TEMPLATE.encode()})
    with edgegpt.load(folder, "cpu", threads=1) as opened:
        yield opened


def fresh(model: LanguageModel, messages: list[dict], **settings: Any) -> str:
    return model.generate(model.apply_chat_template(messages), **(SHORT | settings)).text


def test_turns_are_answered_as_their_whole_prompts_and_begin_where_they_differ(
    model: LanguageModel,
) -> None:
    chat = Conversation(model, "w", **SHORT)
    prompts = []
    for turn, words in enumerate(["r", "a", "t"]):
        before = list(chat.messages)
        result = chat.say(words)
        messages = [*before, {"role": "user", "content": words}]
        assert result.text == fresh(model, messages)
        assert chat.messages == [*messages, {"role": "assistant", "content": result.text}]
        prompts.append(model.encode_prompt(model.apply_chat_template(messages)))
        if turn:
            assert chat.reused >= len(prompts[-2])
            assert chat.reused < len(prompts[-1])
    chat.close()


def test_an_edited_history_goes_on_from_where_it_was_edited(model: LanguageModel) -> None:
    chat = Conversation(model, **SHORT)
    chat.say("rain")
    chat.say("wind")
    chat.messages[2]["content"] = "water"
    chat.undo()
    chat.undo()
    assert chat.messages == []
    assert not chat.undo()
    chat.say("rain")
    assert chat.reused >= len("u rai")
    same = [{"role": "user", "content": "rain"}]
    assert chat.messages == [*same, {"role": "assistant", "content": fresh(model, same)}]


def test_an_answer_that_is_left_is_kept_so_far(model: LanguageModel) -> None:
    chat = Conversation(model, max_new_tokens=12)
    pieces = chat.stream("rain")
    first = next(pieces)
    pieces.close()
    assert chat.messages[-1]["content"].startswith(first)
    assert chat.result.finish_reason == "closed"
    assert chat.say("a").text == fresh(model, chat.messages[:-1], max_new_tokens=12, temperature=0)


def test_a_full_context_says_so_and_the_oldest_turns_can_go(model: LanguageModel) -> None:
    chat = Conversation(model, "so", max_new_tokens=2)
    while chat.left > len("u wind\n"):
        chat.say("wind")
    with pytest.raises(InvalidInputError, match=f"the context {model.context}: drop its oldest"):
        chat.say("wind")
    full = list(chat.messages)
    assert chat.left < len("u wind\n")
    assert chat.drop_oldest() == 1
    assert chat.messages == [full[0], *full[3:]]
    chat.say("wind")
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "so"}]
    assert chat.drop_oldest(5) == 0


def test_a_history_is_saved_and_loaded(model: LanguageModel, tmp_path: Path) -> None:
    chat, other = Conversation(model, **SHORT), Conversation(model, **SHORT)
    chat.say("rain")
    chat.save(tmp_path / "chat.json")
    other.load(tmp_path / "chat.json")
    assert other.messages == chat.messages
    assert other.say("a").text == chat.say("a").text


BAD_HISTORIES = {
    "{": "cannot read .*Expecting property name",
    "{}": "is no history",
    "[1]": "is no history",
    '[{"content": "x"}]': "is no history",
    '[{"role": "user"}]': "is no history",
    '[{"role": "user", "content": 5}]': "is no history",
    '[{"role": "user", "content": null}]': "is no history",
    "[" * 100_000: "it is nested too deeply$",
    f'[{{"role": "user", "content": {"[" * 900 + "]" * 900}}}]': "no history for this model: mess",
    b"\xff\xfe[": "it is not UTF-8$",
}


@pytest.mark.parametrize("bad", BAD_HISTORIES, ids=lambda bad: str(bad[:40]))
def test_what_is_no_history_is_refused_and_the_old_one_stays(
    model: LanguageModel, tmp_path: Path, bad: str | bytes
) -> None:
    chat, file = Conversation(model, "so"), tmp_path / "bad.json"
    file.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    with pytest.raises(DataError, match=BAD_HISTORIES[bad]) as told:
        chat.load(file)
    assert "bad.json" in str(told.value)
    assert chat.messages == [{"role": "system", "content": "so"}]


def test_a_history_that_the_template_refuses_is_refused(
    altered_bundle: Any, tmp_path: Path
) -> None:
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    folder = altered_bundle(files={"chat_template.jinja": strict.encode()})
    (file := tmp_path / "chat.json").write_text('[{"role": "assistant", "content": "a"}]')
    with edgegpt.load(folder, "cpu", threads=1) as model:
        chat = Conversation(model)
        with pytest.raises(DataError, match=r"chat\.json is no history for this model: .*no"):
            chat.load(file)
        assert chat.messages == []


@pytest.mark.parametrize("name", ["", "none/chat.json", "a\0b", "x" * 300])
def test_files_that_cannot_be_are_named(model: LanguageModel, tmp_path: Path, name: str) -> None:
    (folder := tmp_path / "out").mkdir()
    chat = Conversation(model)
    for action, verb in ((chat.load, "read"), (chat.save, "write")):
        with pytest.raises(DataError, match=f"^cannot {verb} {folder}"):
            action(folder / name)
    assert list(folder.iterdir()) == []


def test_devices_and_pipes_are_neither_read_nor_replaced(
    model: LanguageModel, tmp_path: Path
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    chat = Conversation(model)
    for action in (chat.load, chat.save):
        for path in (pipe, Path("/dev/zero")):
            with pytest.raises(DataError, match="it is no file"):
                action(path)
    assert pipe.is_fifo()


HISTORIES = {  # roles by their first letters, and what is left after one turn is dropped
    "": "",
    "s": "s",
    "sua": "s",
    "suaua": "sua",
    "auua": "ua",
    "suu": "su",
    "ss": "ss",
    "ssua": "ss",
    "sa": "s",
    "a": "",
    "aua": "",
    "usua": "ua",
    "uata": "",
}
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


@pytest.mark.parametrize("before", HISTORIES)
def test_the_oldest_turn_goes_and_the_systems_message_stays(
    model: LanguageModel, before: str
) -> None:
    chat = Conversation(model)
    messages = [{"role": ROLES[one], "content": str(number)} for number, one in enumerate(before)]
    chat.messages = list(messages)
    assert chat.drop_oldest(0) == 0
    assert chat.messages == messages
    dropped = chat.drop_oldest()
    assert "".join(one["role"][0] for one in chat.messages) == HISTORIES[before]
    assert dropped == (len(HISTORIES[before]) < len(before))
    assert [one for one in messages if one in chat.messages] == chat.messages
    chat.messages = list(messages)
    chat.drop_oldest(10**30)
    assert all(one["role"] == "system" for one in chat.messages)
    with pytest.raises(InvalidInputError, match="-1 turns"):
        chat.drop_oldest(-1)


def test_a_message_that_is_far_too_long_is_refused_before_it_is_tokenized(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Conversation(model)
    monkeypatch.setattr(type(model), "encode_prompt", None)
    with pytest.raises(InvalidInputError, match="at least 1000003 tokens, and the context"):
        chat.say("a" * 1_000_000)
    assert chat.messages == []


def test_undoing_and_loading_go_on_from_the_common_beginning(
    model: LanguageModel, tmp_path: Path
) -> None:
    chat = Conversation(model, "w", **SHORT)
    chat.say("rain")
    chat.save(tmp_path / "early.json")
    early = model.apply_chat_template(chat.messages)
    chat.say("wind")
    chat.undo()
    assert chat.say("a").text == fresh(model, chat.messages[:-1])
    assert chat.reused >= len(model.encode_prompt(early))
    chat.reset()
    chat.load(tmp_path / "early.json")
    assert chat.say("tree").text == fresh(model, chat.messages[:-1])
    assert chat.reused >= len(model.encode_prompt(early))


def test_lm_chat_answers_and_keeps_the_common_beginning(model: LanguageModel) -> None:
    messages = [{"role": "user", "content": "rain"}]
    assert model.chat(messages, **SHORT).text == fresh(model, messages)
    longer = [*messages, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    assert model.chat(longer, **SHORT).text == fresh(model, longer)
    assert model._chat_row.reused >= len("u rain\n")


def test_a_row_goes_on_after_an_error(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Conversation(model, **SHORT)
    chat.say("rain")
    state = chat._row._rows.state

    def broken(*_: object) -> None:
        raise EngineError("gone")

    monkeypatch.setattr(state, "step", broken)
    with pytest.raises(EngineError):
        chat.say("wind")
    chat.undo()
    messages = [*chat.messages, {"role": "user", "content": "wind"}]
    assert chat.say("wind").text == fresh(model, messages)


def test_a_turn_before_the_last_one_was_read_is_refused(model: LanguageModel) -> None:
    chat = Conversation(model, max_new_tokens=8)
    pieces = chat.stream("r")
    first = next(pieces)
    with pytest.raises(InvalidInputError, match="read its stream to the end, or close it"):
        chat.say("a")
    rest = "".join(pieces)
    assert chat.messages[0]["content"] == "r"
    assert first + rest


def test_without_a_template_there_is_no_chat(small_bundle: Path) -> None:
    with edgegpt.load(small_bundle, "cpu", threads=1) as model:
        with pytest.raises(InvalidInputError, match="no chat template"):
            Conversation(model)
        with pytest.raises(InvalidInputError, match="no chat template"):
            model.chat([{"role": "user", "content": "a"}])
