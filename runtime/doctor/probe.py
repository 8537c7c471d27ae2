"""Ask the machine: files, programs, installed distributions, and trials.

Everything that `doctor` knows about a machine comes through a `Probe`, so that a recorded machine
can stand in for this one.
"""

import glob
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from shutil import which
from typing import Protocol

from ..machine import Machine, available_memory
from ..processes import python_program

__all__ = ["LocalProbe", "Probe", "Ran"]

# Folders of Linux programs that may be missing from a user's PATH.
SYSTEM_FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
# The first start of a GPU's libraries may take this long on a slow disk.
TRIAL_SECONDS = 90.0
# The current folder is removed from the path because its files could be taken for packages.
TRIAL = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from edgegpt.runtime.doctor.trial import main; main(*sys.argv[1:])"
)
LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True)
class Ran:
    """The exit code and output of a program; `code` is None if it did not end in time."""

    code: int | None
    out: str
    err: str


class Probe(Protocol):
    """The questions to a machine. No method raises or hangs."""

    def platform(self) -> dict[str, str]:
        """Return `system` (Linux, Windows, Darwin), `release`, `machine` and `python`."""

    def memory(self) -> tuple[int, int]:
        """Return total and free bytes of memory if there is no /proc/meminfo; 0 if unknown."""

    def distributions(self) -> dict[str, str]:
        """Return the versions of all installed Python distributions by lower-case name."""

    def environment(self, name: str) -> str:
        """Return an environment variable; "" if it is not set."""

    def read(self, path: str) -> str | None:
        """Return the text of a file, or None if it cannot be read."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match `pattern`, sorted."""

    def run(self, command: Sequence[str], seconds: float) -> Ran | None:
        """Run a program for at most `seconds`; None if there is no such program."""

    def trial(self, *arguments: str) -> Ran:
        """Run a trial, see `edgegpt.runtime.doctor.trial`, in a process of its own."""


class LocalProbe:
    """Asks this machine."""

    def __init__(self, trial_seconds: float = TRIAL_SECONDS) -> None:
        """Give a trial `trial_seconds` to end."""
        self.trial_seconds = trial_seconds

    def platform(self) -> dict[str, str]:
        """Return what the standard library says."""
        return {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }

    def memory(self) -> tuple[int, int]:
        """On Windows both numbers are known, on other systems only the total."""
        return Machine.here().memory_bytes, available_memory() or 0

    def distributions(self) -> dict[str, str]:
        """Read the metadata on sys.path; the first one found counts, as it does for imports."""
        found: dict[str, str] = {}
        for distribution in metadata.distributions():
            with suppress(Exception):  # damaged metadata counts as none
                name = distribution.metadata["Name"].lower().replace("_", "-")
                found.setdefault(name, distribution.version)
        return found

    def environment(self, name: str) -> str:
        """Look in os.environ."""
        return os.environ.get(name, "")

    def read(self, path: str) -> str | None:
        """Read, with replacement characters for bytes that are not UTF-8."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Look in the file system."""
        return sorted(glob.glob(pattern))

    def run(self, command: Sequence[str], seconds: float) -> Ran | None:
        """Run without input; kill a program that does not end in time, and its children."""
        program = which(command[0]) or which(command[0], path=SYSTEM_FOLDERS)
        return None if program is None else _run([program, *command[1:]], seconds)

    def trial(self, *arguments: str) -> Ran:
        """Run with this interpreter."""
        program = python_program()
        if program is None:
            return Ran(0, "", f"it is tried with a Python program, and {sys.executable!r} is none")
        command = [program, "-c", TRIAL, *arguments]
        return _run(command, self.trial_seconds) or Ran(0, "", f"{program} does not start")


def _run(command: list[str], seconds: float) -> Ran | None:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError:  # not executable
        return None
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        try:
            out, err = process.communicate(timeout=LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:  # stuck in the driver, where no signal reaches it
            out, err = "", ""
        return Ran(None, out, err)
    except BaseException:  # interrupted: leave no process behind
        _kill(process)
        raise
    return Ran(process.returncode, out, err)


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
