"""Pages that are generated say what the code says."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_commands_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # the page's width is its own
    generator = runpy.run_path(str(DOCS / "generate_commands.py"))
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert generator["text"]() == page, "run: make docs"
