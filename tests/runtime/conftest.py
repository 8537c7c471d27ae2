"""Bundles with a known defect, and folders for what a test keeps, for several modules."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from talking import write_byte_bundle

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import MANIFEST_NAME, FileEntry

Alter = Callable[..., Path]


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is built and proved here from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def byte_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model of bytes. Read-only."""
    return write_byte_bundle(tmp_path_factory.mktemp("bytes"))


@pytest.fixture
def bundle_copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle that a test may damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "copy"))


@pytest.fixture
def altered_bundle(bundle_copy: Path) -> Alter:
    """Return a function that changes files or manifest fields of the copy, and its hashes and id.

    `files` maps a name to its new bytes, or to None to drop the file from the bundle.
    """

    def alter(files: dict[str, bytes | None] | None = None, **fields: object) -> Path:
        manifest = Bundle.open(bundle_copy).manifest
        table = dict(manifest.files)
        for name, data in (files or {}).items():
            if data is None:
                del table[name]
                continue
            (bundle_copy / name).write_bytes(data)
            table[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
        manifest = dataclasses.replace(manifest, files=table, **fields)
        (bundle_copy / MANIFEST_NAME).write_text(manifest.to_json())
        return bundle_copy

    return alter
