"""The fenced blocks of code in a page of Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block, its language, and the heading that it is under."""

    heading: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return all blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        heading = HEADING.findall(text[: match.start()])[-1]
        found.append(Block(heading, match[1], match[2]))
    return found
