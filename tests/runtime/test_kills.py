"""A writer that is killed at any moment leaves the old folder, the new one, or none: never half."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.errors import BundleError

# Writes the prepared bundle repeatedly until it is killed.
WRITER = """
import sys
from pathlib import Path
from edgegpt.runtime.files import new_folder
source, target = Path(sys.argv[1]), Path(sys.argv[2])
prepared = {file.name: file.read_bytes() for file in source.iterdir()}
print("ready", flush=True)
while True:
    with new_folder(target) as folder:
        for name, data in prepared.items():
            (folder / name).write_bytes(data)
    print("written", flush=True)
"""


def kill_once(source: Path, target: Path, delay: float) -> None:
    """Start a writer and kill it `delay` seconds after it is ready."""
    command = [sys.executable, "-c", WRITER, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)


def seconds_of_a_write(source: Path, target: Path) -> float:
    """Return how long a writer that nobody kills takes for one bundle."""
    command = [sys.executable, "-c", WRITER, str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        begin = time.perf_counter()
        assert process.stdout.readline() == b"written\n"
        taken = time.perf_counter() - begin
        process.kill()
    return taken


def is_whole(target: Path) -> bool:
    """Return whether there is a bundle; a damaged one is an error."""
    if not target.exists():
        return False
    Bundle.open(target).check_hashes()
    return True


def campaign(source: Path, folder: Path, kills: int) -> int:
    """Kill `kills` writers; return how often there was a whole bundle afterwards."""
    moments = random.Random(0)
    whole, write_s = 0, seconds_of_a_write(source, folder / "calibration")
    for number in range(kills):
        target = folder / str(number)
        kill_once(source, target, moments.uniform(0.0, 4 * write_s))
        whole += is_whole(target)
    return whole


def test_a_killed_replacement_leaves_a_whole_bundle_or_none(
    small_bundle: Path, tmp_path: Path
) -> None:
    assert campaign(small_bundle, tmp_path, 30) >= 15


@pytest.mark.long
def test_a_thousand_kills(small_bundle: Path, tmp_path: Path) -> None:
    assert campaign(small_bundle, tmp_path, 1000) > 500


def test_a_half_written_bundle_would_be_noticed(small_bundle: Path, tmp_path: Path) -> None:
    for file in list(small_bundle.iterdir())[:3]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BundleError):
        is_whole(tmp_path)
