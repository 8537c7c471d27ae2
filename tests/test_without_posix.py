"""The commands need nothing of the system that Windows lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import TEXT

# Python's modules and functions that Windows does not have, and that these commands or the packages
# they use could ask for.
WITHOUT_POSIX = """
import os, signal, sys

for name in ("fcntl", "grp", "pty", "pwd", "readline", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("chown fchmod fork forkpty geteuid getgid getloadavg getpgid getpriority getuid "
             "killpg mkfifo nice posix_spawn register_at_fork sched_getaffinity setsid "
             "sysconf").split():
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, name)

from edgegpt.cli import main

main(sys.argv[1:])
"""


def edgegpt(*arguments: object, before: str = "") -> str:
    command = [sys.executable, "-c", before + WITHOUT_POSIX, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("inspect",),
        ("verify",),
        ("generate", "--prompt", "The wind", "-n", 5),
        ("bench", "--tokens", 4, "--repeats", 1),
    ],
    ids=lambda command: command[0],
)
def test_a_bundle_runs_without_what_windows_lacks(small_bundle: Path, command) -> None:
    name, *options = command
    assert edgegpt(name, small_bundle, *options)


def test_doctor_looks_at_a_machine_without_what_windows_lacks() -> None:
    assert json.loads(edgegpt("doctor", "--json"))


def test_a_model_is_trained_and_exported_without_what_windows_lacks(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    imported = "import torch, torch.onnx, onnxscript"  # what they ask Linux for is their own affair
    edgegpt(
        *("train", "--data", tmp_path / "text", "--out", tmp_path / "run", "--max-steps", 1),
        *("--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--batch-size", 4),
        before=imported,
    )
    out = ("--out", tmp_path / "bundle", "--lowering", "ort")
    edgegpt("export", tmp_path / "run", *out, before=imported)
    assert (tmp_path / "bundle" / "receipt.json").is_file()
