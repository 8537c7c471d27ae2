"""The pages of docs/ agree with the code."""

import ast
import re
import runpy
import shutil
import subprocess
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


READERS = {"get", "setdefault", "environment", "_base"}  # methods and functions that take a name
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+|PATH|COLUMNS|PYTHONIOENCODING|LOCALAPPDATA")


def _variables(source: Path) -> set[str]:
    """Return the names of environment variables that a module reads."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    named = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    asked = [
        named.get(call.args[0].id) if isinstance(call.args[0], ast.Name) else call.args[0]
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", None)) in READERS
    ]
    found = {part.value for part in asked if isinstance(part, ast.Constant)}
    return {name for name in found if isinstance(name, str) and VARIABLE.fullmatch(name)}


def test_every_environment_variable_that_is_read_is_on_its_page() -> None:
    modules = [path for part in ("edgegpt", "export", "runtime") for path in sorted_modules(part)]
    read = set().union(*map(_variables, modules))
    assert {"XDG_STATE_HOME", "EDGEGPT_API_KEY", "CUDA_PATH"} <= read
    page = (DOCS / "environment.md").read_text(encoding="utf-8")
    assert [name for name in sorted(read) if f"`{name}`" not in page] == []


def sorted_modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_make_help_names_every_target() -> None:
    if shutil.which("make") is None:
        pytest.skip("this system has no make")
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for name in set(targets[1].split()) - {"help"}:
        assert re.search(rf"\bmake {name}(?![-\w])", told), name
