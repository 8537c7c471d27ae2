"""Chat templates: they render as in transformers, and what is wrong is told in one sentence."""

import datetime
import json
import sys
from itertools import product
from pathlib import Path

import pytest
from chats import CHATS, TOOLS
from small_models import TEXT
from transformers import PreTrainedTokenizerFast

from edgegpt.runtime.errors import BundleError, InvalidInputError
from edgegpt.runtime.text.chat_template import ChatPrompt, ChatTemplate
from edgegpt.training.char_tokenizer import build_char_tokenizer

SANDBOX = "edgegpt.runtime.text.sandbox"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Templates in the manner of real ones; together they use what real ones use.
TEMPLATES = {
    path.stem: path.read_text() for path in Path(__file__).with_name("templates").iterdir()
}
TEMPLATES["white-space"] = (
    "  {% if true %}  \n  a\n  {% endif %}\n\n{{ 'x' }}\n  {%- if true -%} y {%- endif %} \n"
)
ALTERNATE = "turns-that-alternate"


@pytest.fixture(scope="module")
def reference():
    return PreTrainedTokenizerFast(tokenizer_object=build_char_tokenizer(TEXT), **TOKENS)


def render(text, messages, **settings):
    return ChatTemplate(text, "chat_template.jinja", TOKENS).render(messages, **settings)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize(
    ("name", "chat"), sorted(set(product(TEMPLATES, CHATS)) - {(ALTERNATE, "with tools")})
)
def test_a_chat_is_what_transformers_makes_of_it(reference, name, chat, tools, prompted):
    settings = {"add_generation_prompt": prompted, "tools": tools}
    expected = reference.apply_chat_template(
        CHATS[chat], chat_template=TEMPLATES[name], tokenize=False, **settings
    )
    assert render(TEMPLATES[name], CHATS[chat], **settings) == expected
    assert expected.strip()


def test_a_template_that_refuses_a_chat_is_quoted():
    chat = CHATS["one question"] * 2
    with pytest.raises(InvalidInputError) as error:
        render(TEMPLATES[ALTERNATE], chat)
    told = "the chat template refuses the messages: Conversation roles must alternate "
    assert str(error.value) == f"{told}user/assistant"


def test_a_refusal_is_quoted_on_one_line_of_bounded_length():
    with pytest.raises(InvalidInputError) as error:
        render("{{ raise_exception('a\n\x1b[2J' + 'b' * 9999) }}", CHATS["one question"])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_the_date_is_today_s():
    found = render("{{ strftime_now('%Y-%m') }}", CHATS["one question"])
    assert found == datetime.datetime.now().strftime("%Y-%m")


def test_the_result_is_a_text_that_knows_that_it_is_whole():
    found = render("{{ messages[0].content }}", CHATS["one question"])
    assert isinstance(found, ChatPrompt)
    assert json.loads(json.dumps(found)) == "What is 1 < 2?"


def test_the_callers_messages_are_not_changed_and_may_be_tuples_and_subclasses():
    class Word(str):
        pass

    messages = ({"role": Word("user"), "content": ({"text": Word("a"), "n": (1, 2.5, True)},)},)
    found = render("{{ messages[0].content[0].n }} {{ messages | tojson }}", messages)
    plain = '[{"role": "user", "content": [{"text": "a", "n": [1, 2.5, true]}]}]'
    assert found == f"[1, 2.5, True] {plain}"
    assert type(messages[0]["content"]) is tuple


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages are 'hello'; they must be a list of dicts"),
        (None, "messages are None"),
        ({"role": "user"}, "messages are {'role': 'user'}"),
        ([], "there is no message"),
        (["hello"], r"messages\[0\] is 'hello'; it must be a dict"),
        ([{"role": "user"}, {"content": "a"}], r"messages\[1\] has the role None; it must be a"),
        ([{"role": ""}], r"messages\[0\] has the role ''"),
        ([{"role": 3}], r"messages\[0\] has the role 3"),
        ([{"role": "user", "content": object}], r"messages\[0\] holds <class 'object'>"),
        ([{"role": "user", "content": {1: 2}}], r"messages\[0\] has the key 1, which is no text"),
    ],
)
def test_messages_of_another_form_are_refused(messages, words):
    with pytest.raises(InvalidInputError, match=words):
        render("{{ messages }}", messages)


def test_arguments_of_calls_are_text_where_a_template_joins_them_to_texts():
    """As DeepSeek's does, while others write them as JSON themselves."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    each = "{% for c in messages[0].tool_calls %}{{ EXPRESSION }}{% endfor %}"
    joined = each.replace("EXPRESSION", "c['function']['name'] + c['function']['arguments'] + '.'")
    written = each.replace("EXPRESSION", "c.function.name + c.function.arguments | tojson + '.'")
    assert render(joined, messages) == render(written, messages) == 'f{"a": "é"}.'
    assert call["function"]["arguments"] == {"a": "é"}
    for strange in ("x", ["x"], [{"function": 3}], [{"arguments": {}}]):
        with pytest.raises(BundleError):
            render(joined, [{"role": "assistant", "tool_calls": strange}])


@pytest.mark.parametrize(
    "content", ["m.content", "m['content']", 'm["content"] | selectattr("type")']
)
def test_a_text_is_a_part_where_a_template_takes_all_messages_apart(content):
    lines = f"{{% for m in messages %}}{{% for p in {content} %}}{{{{ p['text'] }}}}{{% endfor %}}"
    parted = f"{lines}.{{% endfor %}}"
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]
    assert render(parted, [{"role": "user", "content": "Hello"}]) == "Hello."
    assert render(parted, [{"role": "user", "content": parts}]) == "Hi!."


def test_a_text_stays_one_where_a_template_asks_what_it_is():
    asking = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }},{% endfor %}{% endif %}{% endfor %}"
    )
    assert render(asking, [{"role": "user", "content": "Hello"}]) == "Hello"


@pytest.mark.parametrize(
    "loop",
    [
        "m.content.split()",
        "m['content'].split()",
        "m['content'][:1]",
        "m.content_parts or [m.content]",
    ],
)
def test_a_text_stays_one_where_a_template_takes_the_text_itself_apart(loop):
    """It would fail on a list, or put it into the prompt."""
    text = (
        f"{{% for m in messages %}}{{% for p in {loop} %}}{{{{ p }}}}{{% endfor %}}{{% endfor %}}"
    )
    assert render(text, [{"role": "user", "content": "H"}]) == "H"


def test_it_asks_only_if_it_asks_of_the_content():
    parted = (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}"
        "{% if m.tools is mapping %}!{% endif %}{% endfor %}"
    )
    assert render(parted, [{"role": "user", "content": "Hello"}]) == "Hello"


def test_messages_that_hold_themselves_are_refused():
    messages = [{"role": "user", "content": []}]
    messages[0]["content"].append(messages)
    with pytest.raises(InvalidInputError, match="more than 60 deep"):
        render("{{ messages }}", messages)


@pytest.mark.parametrize("tools", ["x", [print], [{"f": print}], 3])
def test_tools_of_another_form_are_refused(tools):
    with pytest.raises(InvalidInputError, match="tools"):
        render("{{ messages }}", CHATS["one question"], tools=tools)


@pytest.mark.parametrize("text", ["{% if %}", "{{ x", "{% endfor %}", "{{ 'a' | abacus }}"])
def test_a_text_that_is_no_template_is_refused(text):
    with pytest.raises(
        BundleError, match=r"^chat_template\.jinja is no usable chat template: ."
    ) as error:
        render(text, CHATS["one question"])
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["{{ 1 / 0 }}", "{{ nothing.x }}", "{{ 'a' + 1 }}"])
def test_a_template_that_fails_is_named(text):
    with pytest.raises(BundleError, match=r"^chat_template\.jinja cannot be used for these mess"):
        render(text, CHATS["one question"])


def test_without_jinja2_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(SANDBOX)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InvalidInputError, match=r"need jinja2: pip install \"edgegpt-toolkit\[cha"):
        render("x", CHATS["one question"])
