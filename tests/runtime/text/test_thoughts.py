"""Thoughts are told apart from the answer however the text is cut into pieces."""

import random

import pytest

from edgegpt.runtime.text.call_forms import HERMES
from edgegpt.runtime.text.reading import Reader, Said
from edgegpt.runtime.text.thoughts import Thoughts, apart
from edgegpt.runtime.text.tool_calls import Calls, ToolCall

CASES = [
    (False, "<think>\nhm, a < b\n</think>\n\nYes.\n", "hm, a < b", "Yes.\n"),
    (False, " \n<think>a</think>b</think><think>c", "a", "b</think><think>c"),
    (False, "<think>\n\n</think>\n\nYes", "", "Yes"),
    (False, "<think>never ends </thi", "never ends </thi", ""),
    (False, "<think>", "", ""),
    (False, "<think></think>", "", ""),
    (False, " I <think> so</think> ", "", " I <think> so</think> "),
    (False, "<thin", "", "<thin"),
    (False, " \n", "", " \n"),
    (False, "", "", ""),
    (True, "\nhm </b> \n </think>\n\nYes", "hm </b>", "Yes"),
    (True, "no end\n", "no end", ""),
    (True, "</think>Yes", "", "Yes"),
]


def pieces(text, seed):
    rng = random.Random(seed)
    while text:
        size = (len(text), 1)[seed] if seed < 2 else rng.randint(1, 6)
        yield text[:size]
        text = text[size:]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("begun", "text", "thought", "answer"), CASES)
def test_thoughts_and_answer_are_parted(begun, text, thought, answer, seed):
    found = list(apart(pieces(text, seed), Thoughts(begun=begun)))
    assert "".join(piece for thinks, piece in found if thinks) == thought
    assert "".join(piece for thinks, piece in found if not thinks) == answer
    assert all(piece for _, piece in found)
    assert "".join(piece for thinks, piece in apart([text], None) if not thinks) == text


def test_thoughts_come_at_once():
    thoughts = Thoughts(begun=True)
    assert thoughts.push("I wonder </") == ("I wonder", "")
    assert thoughts.push("b> ") == (" </b>", "")


@pytest.mark.parametrize("begun", [True, False])
def test_endless_white_space_is_not_held_back(begun):
    thoughts = Thoughts(begun=begun)
    thoughts.push("a" if begun else "")
    found = ["".join(thoughts.push(" " * 16)) for _ in range(500)]
    assert len("".join(found)) > 500 * 16 - 300


def test_calls_in_thoughts_are_thoughts():
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    reader = Reader(Thoughts(), Calls(HERMES, ["f"]))
    said = reader.push(f"<think>{call}</think>\n{call}")
    assert said == Said(call, "", (ToolCall("f", "{}"),))
    assert reader.finish() == Said()
    assert Reader().push("<think>") == Said("", "<think>")
