"""A path that is no checkpoint is refused with one sentence that says what it is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegpt.errors import CheckpointError
from edgegpt.importers.open import open_source


def loop(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def written(raw: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(raw)

    return write


def folder(path: Path) -> None:
    path.mkdir()


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda path: None, "no file at"),
    "an empty file": (written(b""), "is empty"),
    "a text": (written(b"once upon a time\n"), "is no checkpoint; import reads a Hugging Face"),
    "an unknown graph": (written(b"\x08\x0a\x12\x07pytorch"), "is no checkpoint; import reads"),
    "a safetensors file": (written(b"\x02\0\0\0\0\0\0\0{}"), "import its folder"),
    "a GGUF file of four bytes": (written(b"GGUF"), "cut off"),
    "a zip archive": (written(b"PK\x03\x04 and no more"), "PyTorch file: it is cut off"),
    "a folder without settings": (folder, "config.json is missing"),
    "a loop of links": (loop, "cannot be read"),
    "a pipe": (lambda path: os.mkfifo(path), "is a pipe, where a file belongs"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    make, reason = CASES[name]
    path = tmp_path / "source"
    make(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_source(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_content_tells_the_kind_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"GGUF\x07\0\0\0")
    with pytest.raises(CheckpointError, match="GGUF version is 7"):
        open_source(path)


def test_without_the_library_a_gguf_file_asks_for_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'gguf'", name="gguf")

    monkeypatch.setattr("importlib.import_module", missing)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"toolkit\[export\]"):
        open_source(tmp_path / "model.gguf")
