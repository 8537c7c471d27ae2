"""Chats: a turn computes what is new in it, and its answer is the one of the whole prompt."""

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
    for bad in ("{", "{}", "[1]", '[{"content": "x"}]'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(DataError, match=r"bad\.json"):
            other.load(tmp_path / "bad.json")
    with pytest.raises(DataError, match="cannot read"):
        other.load(tmp_path / "none.json")


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
