"""Ctrl-C while the command is still being imported, and when it is done."""

import signal
import subprocess
import sys

import pytest

# Presses Ctrl-C when a module is about to be imported, and starts the command.
COMMAND = """
import os, signal, sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(Watch)
            os.kill(os.getpid(), signal.SIGINT)

moment = sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let it be ignored beside them
from edgegpt.__main__ import main
sys.meta_path.insert(0, Watch)
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a process there")
@pytest.mark.parametrize(
    "moment",
    ["edgegpt.cli", "click", "edgegpt.log", "edgegpt.commands.cache", "edgegpt.runtime.cache"],
)
def test_ctrl_c_during_imports_ends_the_command_in_one_line(moment: str) -> None:
    command = [sys.executable, "-c", COMMAND, moment, "cache", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert (done.stdout, done.stderr.strip()) == ("", "interrupted")


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends a process there")
@pytest.mark.parametrize("arguments", [["--version"], ["inspect", "no-bundle"]])
def test_ctrl_c_when_all_is_done_leaves_no_traceback(arguments: list[str]) -> None:
    code = (
        "import atexit, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edgegpt.__main__ import main\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout.startswith("edgegpt") or done.stderr == "error: no bundle at no-bundle\n"
    assert "Traceback" not in done.stderr
