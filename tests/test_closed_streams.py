"""The command where stdin, stdout or stderr are closed, or a reader closes its end."""

import subprocess
import sys
from pathlib import Path

PROMPT = "The wind"


def test_a_closed_stderr_is_no_error(small_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgegpt", "generate", str(small_bundle), "--prompt", "The"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("The")


def test_a_closed_stdin_is_an_empty_one(small_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgegpt", "generate", str(small_bundle), "--prompt", "-"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: the prompt is empty; the model needs at least one token\n"


def test_no_file_gets_the_number_of_a_closed_stream(small_bundle: Path) -> None:
    code = (
        "import os, sys\n"
        "from edgegpt.cli import main\n"
        "try: main(['inspect', sys.argv[1], '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "streams = [os.stat(number) for number in range(3)]\n"
        "null = os.stat(os.devnull)\n"
        "sys.exit(any(one.st_rdev != null.st_rdev for one in streams))"
    )
    command = [sys.executable, "-c", code, str(small_bundle)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False)
    assert done.returncode == 0


def test_a_reader_that_leaves_ends_the_command_quietly(small_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgegpt", "generate", str(small_bundle), "--prompt", PROMPT]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "3000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(timeout=120) != 0
    assert "Traceback" not in error
    assert "Exception" not in error
