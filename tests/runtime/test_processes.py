"""A model and the processes of a program: forks, copies, the end, and applications of their own."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import edgegpt
from edgegpt.runtime.engines.calls import EngineCalls
from edgegpt.runtime.processes import python_program

SECONDS = 60.0
FORKED = """
import os, signal, sys
import edgegpt
lm = edgegpt.load({bundle!r}, "cpu", threads=2)
lm.generate("The", max_new_tokens=3)
stream = lm.stream("The", max_new_tokens=3)
next(stream)
child = os.fork()
if child == 0:
    signal.alarm(20)
    {child}
    os._exit(0)
_, status = os.waitpid(child, 0)
assert len(lm.generate("The", max_new_tokens=3).token_ids) == 3  # the parent goes on
print(os.waitstatus_to_exitcode(status))
"""
REFUSED = """
    for use in (lambda: lm.generate("The"), lambda: next(stream), lambda: lm.forward([[1]])):
        try:
            use()
        except edgegpt.EngineError as error:
            assert "opened in another process" in str(error)
        else:
            os._exit(3)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def _run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


@needs_fork
@pytest.mark.parametrize(
    "child",
    ["lm.close()", "lm = stream = None", "sys.exit(0)", REFUSED.strip()],
    ids=["close", "del", "exit", "use"],
)
def test_a_forked_child_ends_and_cannot_use_its_parents_model(
    small_bundle: Path, child: str
) -> None:
    done = _run(FORKED.format(bundle=str(small_bundle), child=child))
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_a_daemon_thread_that_generates_does_not_abort_the_exit(
    small_bundle: Path, threads: int
) -> None:
    code = f"""
import threading
import edgegpt
lm = edgegpt.load({str(small_bundle)!r}, "cpu", threads={threads})
pieces = lm.stream("The", max_new_tokens=10**6)
next(pieces)
for _ in range(3):
    write = lambda: lm.generate("The", max_new_tokens=10**6)
    threading.Thread(target=write, daemon=True).start()
for _ in range(50):
    next(pieces)
"""
    done = _run(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_end_waits_for_a_call_and_holds_back_the_next_one_of_a_daemon_thread() -> None:
    calls, entered, leave, again = EngineCalls(), *(threading.Event() for _ in range(3))

    def work() -> None:
        with calls:
            entered.set()
            leave.wait(SECONDS)
        with calls:
            again.set()

    threading.Thread(target=work, daemon=True).start()
    assert entered.wait(SECONDS)
    ending = threading.Thread(target=calls.end)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    leave.set()
    ending.join(SECONDS)
    assert not ending.is_alive()
    assert not again.wait(0.1)
    with calls:  # the main thread may still finish its work
        pass


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_is_not_copied_or_sent_to_another_process(small_bundle: Path, send) -> None:
    with edgegpt.load(small_bundle) as lm:
        with pytest.raises(edgegpt.InvalidInputError, match=r"each process opens the bundle"):
            send(lm)
        assert lm.generate("The", max_new_tokens=1).token_ids


def test_this_python_can_be_started_again() -> None:
    assert python_program() == sys.executable


def test_an_application_of_its_own_is_no_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert python_program() is None
    monkeypatch.delattr(sys, "frozen")
    application = tmp_path / "myapp"
    application.touch(mode=0o755)
    for program in (str(application), str(tmp_path / "python3"), "", None):
        monkeypatch.setattr(sys, "executable", program)
        assert python_program() is None
