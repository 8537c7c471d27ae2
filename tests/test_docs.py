"""The pages of docs/ agree with the code."""

import re
import runpy
from pathlib import Path

import pytest

import edgegpt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_page_of_commands_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # must not change the width of the page
    generator = runpy.run_path(str(DOCS / "generate_commands.py"))
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert generator["text"]() == page, "run: make docs"


def test_the_page_of_the_python_interface_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert ".. automodule:: edgegpt.errors" in page
    for name in set(edgegpt.__all__) - set(edgegpt.errors.__all__) - {"__version__", "errors"}:
        assert re.search(rf"^\.\. auto\w+:: edgegpt\.{name}$", page, re.MULTILINE), name
