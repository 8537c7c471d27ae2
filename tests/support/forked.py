"""`edgegpt` in processes of its own that do not import PyTorch again: a server forks them.

An import of what training needs takes seconds; the server has done it once for all of a session.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgegpt.cli import main

__all__ = ["TIME_LIMIT", "Ended", "Forked"]

TIME_LIMIT = 300  # seconds; a failure, not a measure: other work may have the processors
IMPORTED = ["edgegpt.training.trainer", "edgegpt.training.pair_task", "torch._dynamo"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(IMPORTED)


@dataclass(frozen=True)
class Ended:
    """The result of a command: its exit code, its stdout, its stderr."""

    code: int | None
    out: str
    err: str


class Forked:
    """`edgegpt ARGUMENTS...` with these variables and no others; `folder` gets what it prints."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: object) -> None:
        folder.mkdir()
        self.out, self.err = folder / "out", folder / "err"
        words = [str(argument) for argument in arguments]
        self.process = _SERVER.Process(target=_run, args=(self.out, self.err, environment, words))
        self.process.start()

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.process.pid, number)

    def wait_for_line(self, file: Path) -> None:
        """Wait until `file` has a line; fail if the process ends before."""
        end = time.monotonic() + TIME_LIMIT
        while time.monotonic() < end and self.process.is_alive():
            if file.exists() and "\n" in file.read_text():
                return
            time.sleep(0.02)
        self.process.kill()
        pytest.fail(f"{file} has no line; stderr: {self.err.read_text()}")

    def end(self) -> Ended:
        """Wait for the end; kill the process and fail if it hangs."""
        self.process.join(TIME_LIMIT)
        if self.process.is_alive():
            self.process.kill()
            pytest.fail(f"the process hangs; stderr: {self.err.read_text()}")
        return Ended(self.process.exitcode, self.out.read_text(), self.err.read_text())


def _run(out: Path, err: Path, environment: dict[str, str], words: list[str]) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as a terminal leaves it, unlike nohup
    main(words)
