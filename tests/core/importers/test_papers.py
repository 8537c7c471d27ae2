"""Licence and model card of a source are found, and are harmless whatever they hold."""

from pathlib import Path

import pytest
import torch

from edgegpt.importers.papers import Papers, papers_of
from edgegpt.importers.pickles import PickledTensors
from edgegpt.importers.source import Source

TENSORS = PickledTensors({Path("w"): {"w": torch.ones(1)}})


def papers(folder: Path) -> Papers:
    return papers_of(Source("name", {}, "config.json", TENSORS, folder))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\r\nlicense: 'mit' # as is\r\n---\r\nText", "mit"),
        ('---\nlanguage: en\nlicense: "mit"\nlicense_name: own\n---\n', "mit"),
        ("---\nlicense: other\nlicense_name: gemma-terms\n---\n", "gemma-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense:\n- mit\n  - apache-2.0\ntags:\n- x\n---\n", "mit, apache-2.0"),
        ("---\nlicense:\ntags:\n- x\n---\n", None),
        ("---\nbase:\n  license: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("license: mit\n---\n", None),
        ("---\nname: x\n---\nlicense: mit\n", None),
        ("---\nlicense: \x1b[31mred\n---\n", None),
        (f"---\nlicense: {'m' * 101}\n---\n", None),
        (f"---\nlicense: {' ' * 500_000}x{' ' * 500_000}\n---\n", "x"),
        ("", None),
    ],
)
def test_the_licence_is_what_the_head_of_the_card_names(
    tmp_path: Path, card: str, expected: str | None
) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert papers(tmp_path) == Papers(expected, None, card)


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "license.md", "LICENCE", "COPYING-2"])
def test_the_licence_has_several_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Do as you like.")
    (tmp_path / "licenses.json").write_text("no")
    (tmp_path / "LICENSE.py").write_text("no")
    (tmp_path / "LICENSE-folder").mkdir()
    assert papers(tmp_path) == Papers(license_text="Do as you like.")


def test_the_first_of_several_licences_is_taken(tmp_path: Path) -> None:
    for name in ("LICENSE.b", "LICENSE.a"):
        (tmp_path / name).write_text(name)
    assert papers(tmp_path).license_text == "LICENSE.a"


def test_papers_that_cannot_be_taken_along_are_noted(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    found = papers(tmp_path)
    assert (found.license, found.license_text, found.card) == (None, None, None)
    assert "LICENSE has 1,048,577 bytes" in found.notes[0]
    assert "README.md is not UTF-8 text" in found.notes[1]


def test_what_is_no_file_is_no_paper_and_noted(tmp_path: Path) -> None:
    for name in ("LICENSE", "README.md"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "COPYING").mkdir()
    found = papers(tmp_path)
    assert (found.license, found.license_text, found.card) == (None, None, None)
    assert [note.split()[-1] for note in found.notes] == ["belongs", "links"]
    (tmp_path / "LICENCE.txt").write_text("Do.")
    assert papers(tmp_path).license_text == "Do."


def test_a_gguf_file_names_its_licence_in_its_metadata() -> None:
    fields = {"general.license": "mit"}
    assert papers_of(Source("n", {}, "f", TENSORS, None, fields)) == Papers("mit")
    assert papers_of(Source("n", {}, "f", TENSORS, None, {"general.license": 3})) == Papers()
    assert papers_of(Source("n", {}, "f", TENSORS)) == Papers()
