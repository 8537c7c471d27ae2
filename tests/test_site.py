"""The documentation as a site: whole, and without anything from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from environments import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does: a warning is an error."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason=f"{package} is not installed: make site installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", "docs", "-d", folder / "trees"]
    done = subprocess.run(
        [*command, ".", folder / "html"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_site_has_every_page_and_leads_to_it(site: Path) -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"]
    assert len(pages) > 12
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        name = page.relative_to(ROOT).with_suffix(".html").as_posix()
        assert (site / name).is_file(), name
        assert name == "README.html" or f'href="{name}"' in index, name


def test_the_site_has_what_docstrings_say(site: Path) -> None:
    page = (site / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("load", "LanguageModel.generate", "Stream.close", "export.export_bundle"):
        assert f'id="edgegpt.{name}"' in page, name
    assert "the most likely token each time" in page


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]*src=\"(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]*href=\"(?:https?:)?//", text), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()), style
