"""Generated pages agree with the code."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_commands_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # must not change the width of the page
    generator = runpy.run_path(str(DOCS / "generate_commands.py"))
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert generator["text"]() == page, "run: make docs"
