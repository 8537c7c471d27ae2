"""A full disk: every command that writes says so in one sentence, before any work."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgegpt.cli import main
from edgegpt.errors import CheckpointError, InvalidInputError
from edgegpt.export import export_bundle
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.pack import pack
from edgegpt.runtime.files import check_room, folder_beside, new_file, new_folder, scratch_folder
from edgegpt.training.log import training_log

FULL = shutil._ntuple_diskusage(1 << 30, 1 << 30, 0)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; return what it says, which is one line, apart from stages."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    told = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "Traceback" not in captured.err
    return told[0]


def write_nanogpt(path: Path) -> None:
    """Write a checkpoint of one layer as nanoGPT's train.py does."""
    shapes = {
        "wte": (20, 16),
        "wpe": (8, 16),
        "h.0.ln_1": (16,),
        "h.0.attn.c_attn": (48, 16),
        "h.0.attn.c_proj": (16, 16),
        "h.0.ln_2": (16,),
        "h.0.mlp.c_fc": (64, 16),
        "h.0.mlp.c_proj": (16, 64),
        "ln_f": (16,),
    }
    state = {f"transformer.{name}.weight": torch.rand(shape) for name, shape in shapes.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 20}
    torch.save({"model": state, "model_args": sizes | {"bias": False, "dropout": 0.0}}, path)


def not_reached(*_: object, **__: object) -> None:
    raise AssertionError("the work has begun")


def test_pages_and_results_are_refused_before_a_measurement(
    full_disk: None, small_bundle: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegpt.runtime.bench.measure", not_reached)
    monkeypatch.setattr("edgegpt.runtime.proof.verify.verify", not_reached)
    for command in (
        ["bench", small_bundle, "--out", tmp_path / "x"],
        ["bench", small_bundle, "--html", tmp_path / "x"],
        ["verify", small_bundle, "--report", tmp_path / "x"],
    ):
        told = refused(capsys, *command)
        assert told.startswith(f"error: {tmp_path / 'x'} needs about 1.0 MB, and its disk has 0.0")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_refused_before_its_graphs_are_made(
    full_disk: None, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegpt.export.bundle._write", not_reached)
    with pytest.raises(InvalidInputError, match=r"out needs about 0\.1 MB"):
        export_bundle(small_checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_and_what_is_in_it_are_refused_before_they_are_read(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pack(Bundle.open(small_bundle), tmp_path / "bundle.tar")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL)
    monkeypatch.setattr(Bundle, "check_hashes", not_reached)
    assert "again.tar needs about" in refused(
        capsys, "pack", small_bundle, "--out", tmp_path / "again.tar"
    )
    told = refused(capsys, "unpack", tmp_path / "bundle.tar", "--out", tmp_path / "again")
    assert told.startswith(f"error: {tmp_path / 'again'} needs about")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.tar"]


def test_a_training_is_refused_before_its_first_step(
    full_disk: None, small_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegpt.training.trainer.Trainer.start", not_reached)
    data, out = small_checkpoint / "held_out.txt", tmp_path / "out"
    told = refused(capsys, "train", "--preset", "tiny", "--data", data, "--out", out)
    assert f"{out} needs about 12." in told  # 0.8 million parameters, four numbers each
    assert not out.exists()


def test_a_disk_with_room_or_one_that_does_not_tell_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_room(tmp_path / "a" / "b", 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    check_room(tmp_path / "a", 1 << 20)

    def unknown(_: object) -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(shutil, "disk_usage", unknown)
    check_room(tmp_path / "a", 1 << 20)


@pytest.mark.parametrize("new", [new_file, new_folder, lambda path: folder_beside(path, "some")])
def test_a_disk_that_fills_up_during_the_work_is_named(tmp_path: Path, new: Callable) -> None:
    with pytest.raises(OSError, match="No space left") as caught, new(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_folder_that_is_not_there_yet_is_told_by_the_folders_name(
    tmp_path: Path,
) -> None:
    with pytest.raises(OSError, match="No space left") as caught, new_folder(tmp_path / "out") as w:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(w / "weights"))
    assert caught.value.filename == str(tmp_path / "out")
    with pytest.raises(FileNotFoundError) as caught, new_folder(tmp_path / "out"):
        (tmp_path / "of the user").read_bytes()
    assert caught.value.filename == str(tmp_path / "of the user")


def test_scratch_files_need_room_too(full_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"edgegpt needs about 1\.0 MB, .* make room, or name another folder with TMPDIR"
    with pytest.raises(InvalidInputError, match=told), scratch_folder(1_000_000):
        not_reached()


def test_quantising_is_refused_where_there_is_no_room_for_scratch_files(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: FULL if Path(path).name == "full" else usage(path)
    )
    monkeypatch.setattr("edgegpt.export.recipes.quantised.quantize_within_budget", not_reached)
    with pytest.raises(InvalidInputError, match=r"full/edgegpt needs about"):
        export_bundle(small_checkpoint, tmp_path / "out", precision="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_an_import_is_refused_before_weights_are_written(
    full_disk: None, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nanogpt(tmp_path / "ckpt.pt")
    monkeypatch.setattr("edgegpt.importers.importing.write_checkpoint", not_reached)
    told = refused(capsys, "import", tmp_path / "ckpt.pt", "--out", tmp_path / "out")
    assert told.startswith(f"error: {tmp_path / 'out'} needs about")
    told = refused(capsys, "export", tmp_path / "ckpt.pt", "--out", tmp_path / "out")
    assert told.startswith(f"error: {tmp_path / 'out'} needs about")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_golden_vectors_that_do_not_fit_are_an_error_of_the_system(
    small_bundle: Path, tmp_path: Path
) -> None:
    golden = Golden.load(small_bundle / GOLDEN_NAME)
    (tmp_path / "full").symlink_to("/dev/full")  # a library may replace what it writes
    with pytest.raises(OSError, match="No space left"):
        golden.save(tmp_path / "full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_metrics_that_do_not_fit_are_told_with_their_file() -> None:
    with training_log(Path("/dev/full")) as log, pytest.raises(CheckpointError, match="/dev/full"):
        log.sample(1, "text")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["--help"], ["inspect"], ["inspect", "--json"], ["verify"]])
def test_a_stdout_that_is_full_is_named(small_bundle: Path, command: list[str]) -> None:
    given = [] if command == ["--help"] else [small_bundle]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgegpt", *command, *given],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: stdout: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_file_on_a_full_disk_is_no_stdout(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with (tmp_path / "out").open("w") as out:
        tell = os.fstatvfs(out.fileno())
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result([*tell[:4], 0, *tell[5:]]))
        monkeypatch.setattr("edgegpt.runtime.proof.verify.verify", not_reached)
        with pytest.raises(SystemExit):
            main(["verify", str(small_bundle)])
    assert capsys.readouterr().err == (
        "error: stdout is a file on a full disk: make room, or print elsewhere\n"
    )
