"""Folders as Hugging Face's, with small tokenizers."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import sentence_piece, write_byte_level, write_json

Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with vocab.json and merges.txt, and one with tokenizer.model."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("bytes", "pieces"):
        (folder / name).mkdir()
    write_byte_level(folder / "bytes")
    sentence_piece(folder / "pieces" / "tokenizer.model", "bpe")
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Folder:
    """Return a function that makes a folder of a kind of files and JSON files by their stems."""

    def make(kind: str | None = None, **documents: Any) -> Path:
        made = tmp_path / "source"
        made.mkdir()
        if kind is not None:
            shutil.copytree(files / kind, made, dirs_exist_ok=True)
        for stem, content in documents.items():
            write_json(made / f"{stem}.json", content)
        return made

    return make
