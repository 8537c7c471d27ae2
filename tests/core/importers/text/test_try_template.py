"""A chat template that cannot be used is noted when its model is imported."""

import sys

import pytest

from edgegpt.importers.text.try_template import template_notes

TOKENS = {"bos_token": "<s>"}


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% if", "unexpected 'end of template'"),
        ("{{ messages | unique }}", "No filter named 'unique' among those that chat templates may"),
        ("{{ messages[0].content.__class__.__mro__ }}", "'__class__'"),
        ("{{ messages[0].content.format(1) }}", "'format'"),
    ],
)
def test_a_template_that_cannot_be_used_is_noted_with_the_reason(template: str, why: str) -> None:
    (note,) = template_notes(template, TOKENS)
    assert note.startswith("chat_template.jinja ")
    assert why in note


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ bos_token + messages[0].content }}",
        "{{ raise_exception('roles must alternate') }}",  # it wants other messages
    ],
)
def test_a_template_that_works_says_nothing(template: str | None) -> None:
    assert template_notes(template, TOKENS) == ()


def test_without_jinja2_no_template_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("edgegpt.runtime.text.sandbox")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert template_notes("{% if", TOKENS) == ()
