"""The page on PyPI is README.md with absolute links. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
FILES = "https://github.com/edgegpt-toolkit/edgegpt-toolkit/blob/main"
RELATIVE_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)")

setup(
    long_description=RELATIVE_LINK.sub(f"{FILES}/", (ROOT / "README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
