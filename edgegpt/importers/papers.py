"""The papers of a source: its licence, and the model card that tells what it is for."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..user_files import read_text
from .source import Source

__all__ = ["Papers", "papers_of"]

LARGEST = 2**20  # bytes of a licence or a card
LICENSE_FILES = ("license", "licence", "copying")
# What is taken for the name of a licence: short, and harmless in a terminal.
LICENSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,+()/_-]{0,99}")


@dataclass(frozen=True)
class Papers:
    """What a source says about its licence and its purpose.

    Attributes:
        license: the name of the licence, as the card gives it, such as "apache-2.0"; None if the
            card gives none.
        license_text: the first file LICENSE*, LICENCE* or COPYING*; None if there is none.
        card: README.md; None if there is none.
        notes: sentences for the user about papers that were left out.
    """

    license: str | None = None
    license_text: str | None = None
    card: str | None = None
    notes: tuple[str, ...] = ()


def papers_of(source: Source) -> Papers:
    """Return the papers of a source; one of more than 1 MB, or that is no text, is left out.

    A GGUF file has no papers but the licence's name.
    """
    if source.folder is not None:
        return _papers_of_folder(source.folder)
    name = (source.fields or {}).get("general.license")
    return Papers(name if isinstance(name, str) and LICENSE_NAME.fullmatch(name) else None)


def _papers_of_folder(folder: Path) -> Papers:
    found = [path for path in folder.iterdir() if _is_license(path)]
    licenses = sorted(found, key=lambda path: (not path.is_file(), path))
    notes: list[str] = []
    text = _text(licenses[0], notes) if licenses else None
    card = _text(folder / "README.md", notes)
    return Papers(None if card is None else _license_of(card), text, card, tuple(notes))


def _is_license(path: Path) -> bool:
    first = re.split(r"[^a-z]", path.name.lower(), maxsplit=1)[0]
    return first in LICENSE_FILES and path.suffix != ".py"


def _text(path: Path, notes: list[str]) -> str | None:
    try:
        return read_text(path, LARGEST)
    except CheckpointError as error:
        notes.append(f"left out: {error}")
        return None


def _license_of(card: str) -> str | None:
    """Return the licence that the head of a model card names.

    The head is the YAML between two lines `---` at the beginning. No YAML is parsed; of its lines,
    `license: NAME` counts, or `license_name: NAME` where the first one says "other". NAME may be in
    quotes, and lines `- NAME` below `license:` are a list. A name with unusual characters is left
    out.
    """
    first, *lines = card.splitlines() or [""]
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if first.rstrip() != "---" or not ends:
        return None
    head = lines[: ends[0]]
    name = _value("license:", head)
    return (_value("license_name:", head) or name) if name == "other" else name


def _value(key: str, head: list[str]) -> str | None:
    """Return what stands behind `key`, or in the list below it."""
    at = next((number for number, line in enumerate(head) if line.startswith(key)), None)
    if at is None:
        return None
    items = [head[at].removeprefix(key)]
    if not items[0].strip():
        items = []
        for line in head[at + 1 :]:
            if not line.lstrip().startswith("- "):
                break
            items.append(line.lstrip()[2:])
    name = ", ".join(item.split(" #")[0].strip().strip("'\"") for item in items)
    return name if LICENSE_NAME.fullmatch(name) else None
