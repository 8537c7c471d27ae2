"""What a user names is read to its end, and a device that has none is refused."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegpt.cli import main
from edgegpt.errors import DataError
from edgegpt.runtime.inputs import open_input, read_input
from edgegpt.runtime.text.pairs import load_pairs
from edgegpt.training.data import load_corpus

ENDLESS = Path("/dev/zero")
READERS: list[Callable[[Path], object]] = [load_pairs, lambda path: load_corpus(str(path))]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fail, in place of filling the memory, where the whole of a device is read."""
    for name in ("read_bytes", "read_text"):
        read = getattr(Path, name)

        def checked(path: Path, *options: object, read: Any = read, **more: object) -> object:
            assert path != ENDLESS, "this would never end"
            return read(path, *options, **more)

        monkeypatch.setattr(Path, name, checked)
    return ENDLESS


def test_a_file_and_a_pipe_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\nb")
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=pipe.write_bytes, args=[b"c"])
    writer.start()
    assert (read_input(tmp_path / "file"), read_input(pipe)) == (b"a\r\nb", b"c")
    writer.join()


@pytest.mark.parametrize("read", [open_input, read_input])
def test_a_device_is_refused(read: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match=f"it is a device, not a file: '{ENDLESS}'"):
        read(ENDLESS)


@pytest.mark.parametrize("read", READERS)
def test_training_reads_no_device(endless: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=f"cannot read the .* {ENDLESS}: it is a device"):
        read(endless)


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "{}", "--prompt-file"],
        ["generate", "{}", "--prompt", "a", "--json-schema"],
        ["eval", "{}", "--data"],
        ["serve", "{}", "--api-key-file"],
    ],
)
def test_a_command_reads_no_device(
    small_bundle: Path, endless: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([part.format(small_bundle) for part in command] + [str(endless)])
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith(f"{ENDLESS}: it is a device, not a file\n")
