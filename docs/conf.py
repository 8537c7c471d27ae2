"""The site that `make site` builds with Sphinx, from the same pages as on GitHub.

The root of the repository is the source folder, so that links between pages lead to the same places
on both. Nothing is fetched, neither while it is built nor while it is read.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from edgegpt import __version__

ROOT = Path(__file__).parents[1]
FILES = "https://github.com/edgegpt-toolkit/edgegpt-toolkit/blob/main"
NAVIGATION = {
    "Use": [
        *("docs/commands", "docs/environment", "docs/models", "docs/translation"),
        *("docs/embedding", "docs/serve", "docs/scale", "examples/README", "docs/api"),
    ],
    "Devices": ["docs/speed", "docs/native", "docs/gpu", "docs/jetson", "docs/arm", "docs/windows"],
    "Trust": ["docs/proof", "SECURITY"],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}

project = "edgegpt"
author = "the edgegpt contributors"
version = release = __version__
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "examples/README.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
suppress_warnings = ["myst.header"]
highlight_language = "text"  # of blocks that name none
myst_heading_anchors = 3
default_role = "code"  # of single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = f"edgegpt {version}"
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Add what the pages have only on the site."""
    app.connect("source-read", _add_navigation)
    app.connect("doctree-read", _lead_to_the_repository, priority=400)  # before downloads
    app.connect("build-finished", _make_the_readme_the_index)


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """List all pages in the README, those at the end that no section names."""
    if page != root_doc:
        return
    named = {root_doc, *(name for names in NAVIGATION.values() for name in names)}
    others = sorted(app.env.found_docs - named)
    for caption, names in {**NAVIGATION, "More": others}.items():
        listed = "\n".join(name for name in names if name in app.env.found_docs)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def _lead_to_the_repository(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to files and folders that are no pages lead to the repository."""
    folder = Path(app.env.doc2path(app.env.docname)).parent
    kinds = (addnodes.download_reference, addnodes.pending_xref)
    for link in [one for kind in kinds for one in doctree.findall(kind)]:
        target = link["reftarget"]
        if link.get("refdomain") == "doc":  # a page of Markdown, by its path without .md
            place = None if target in app.env.found_docs else ROOT / f"{target}.md"
        else:
            place = Path(os.path.normpath(folder / target))
        if link.get("reftype") == "myst" and target[:1] != "#" and place and place.exists():
            address = f"{FILES}/{place.relative_to(ROOT).as_posix()}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def _make_the_readme_the_index(app: Sphinx, error: Any) -> None:
    if error is None and app.builder.name == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")
