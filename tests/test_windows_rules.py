"""What writes files keeps the rules of Windows, which stand-ins enforce: see `windows_rules`.

This shows that no file is in the way of another one, not that edgegpt runs on Windows.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bisecting import change_weight, negated
from filelock import SoftFileLock
from small_models import TEXT
from tiny_checkpoints import SIZES, save_tiny
from transformers import LlamaConfig
from windows_rules import KNOWN, windows_rules

from edgegpt.cli import main
from edgegpt.export.recipes import float32
from edgegpt.runtime.files import new_folder, write_file
from edgegpt.training import lock

pytestmark = pytest.mark.skipif(not KNOWN, reason="needs /proc to see what is open and mapped")

ANY_LOSS = 1e9
TRAINING = (
    *("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4),
    *("--warmup-steps", 2, "--eval-windows", 8, "--sample-tokens", 4, "--max-steps", 2),
)


@pytest.fixture(autouse=True)
def windows(
    monkeypatch: pytest.MonkeyPatch, small_checkpoint: Path, small_bundle: Path, llama: Path
) -> None:
    """Enforce the rules, once the files that all tests share are there."""
    windows_rules(monkeypatch)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "source"
    save_tiny(LlamaConfig(**SIZES), folder)
    return folder


@pytest.fixture
def edgegpt(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command and returns what it said if it failed, else ""."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = "".join(capsys.readouterr())
        return said if stop.value.code else ""

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_stand_ins_refuse_what_windows_refuses(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(FileExistsError):
        os.rename(tmp_path / "one", tmp_path / "two")
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "one" / "file").open("rb") as file:
        with pytest.raises(OSError, match="flushes nothing"):
            os.fsync(file.fileno())
        for refused in (
            lambda: os.rename(tmp_path / "one", tmp_path / "three"),
            lambda: os.replace(tmp_path / "two" / "file", tmp_path / "one" / "file"),
            lambda: shutil.rmtree(tmp_path / "one"),
        ):
            with pytest.raises(PermissionError, match="is in use"):
                refused()
    shutil.rmtree(tmp_path / "one")
    os.rename(tmp_path / "two", tmp_path / "one")


def test_files_and_folders_are_written_and_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_file(tmp_path / "file", text.encode())
        with new_folder(tmp_path / "folder") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text(text)
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "folder" / "deep" / "file").read_text() == "new"
    assert names(tmp_path) == {"file", "folder"}


@pytest.mark.parametrize(
    "options",
    [(), ("--precision", "int8", "--method", "rtn", "--max-kl", ANY_LOSS)],
    ids=["float32", "int8"],
)
def test_a_bundle_is_replaced(
    *,
    edgegpt: Callable[..., str],
    small_checkpoint: Path,
    small_bundle: Path,
    tmp_path: Path,
    options,
) -> None:
    shutil.copytree(small_bundle, tmp_path / "bundle")
    out = ["--out", tmp_path / "bundle", "--force", "--lowering", "ort"]
    assert not edgegpt("export", small_checkpoint, *out, *options)
    assert not edgegpt("verify", tmp_path / "bundle")
    assert names(tmp_path) == {"bundle"}


def test_an_export_that_is_interrupted_says_so(
    edgegpt: Callable[..., str], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source, *_):
        assert source.model is not None  # whose weights are mapped
        raise KeyboardInterrupt

    monkeypatch.setattr(float32, "golden_vectors", interrupted)
    assert edgegpt("export", llama, "--out", tmp_path / "bundle").strip() == "interrupted"
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_is_packed_and_unpacked(
    edgegpt: Callable[..., str], small_bundle: Path, tmp_path: Path
) -> None:
    assert not edgegpt("pack", small_bundle, "--out", tmp_path / "bundle.tar")
    assert not edgegpt("unpack", tmp_path / "bundle.tar", "--out", tmp_path / "bundle")
    assert names(tmp_path) == {"bundle.tar", "bundle"}


def test_a_model_is_imported_and_exported(
    edgegpt: Callable[..., str], llama: Path, tmp_path: Path
) -> None:
    assert not edgegpt("import", llama, "--out", tmp_path / "checkpoint")
    out = ["--out", tmp_path / "bundle", "--force", "--lowering", "ort"]
    for source in (tmp_path / "checkpoint", llama):
        assert not edgegpt("export", source, *out)
    assert names(tmp_path) == {"checkpoint", "bundle"}


def test_a_run_is_saved_resumed_and_started_again(
    edgegpt: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "FileLock", SoftFileLock)  # FileLock is another one on Windows
    (tmp_path / "text").write_text(TEXT)
    where = ["--out", tmp_path / "run"]
    train = ["train", "--data", tmp_path / "text", *where, *TRAINING]
    assert not edgegpt(*train, "--stop-at", 1)
    assert not edgegpt("train", "--resume", *where)
    assert not edgegpt(*train, "--force", "--init-from", tmp_path / "run")


def test_a_bundle_is_bisected(
    edgegpt: Callable[..., str],
    small_bundle: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    shutil.copytree(small_bundle, tmp_path / "bundle")
    change_weight(tmp_path / "bundle", "blocks.1.feed_forward.up.weight", negated)
    said = edgegpt("verify", tmp_path / "bundle", "--bisect", small_checkpoint)
    assert "blocks.1.feed_forward" in said
    assert names(tmp_path / "temporary") == set()
