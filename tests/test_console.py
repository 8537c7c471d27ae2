"""What commands show: tables on stdout, and their progress on stderr."""

import io
import logging
import sys
import threading
from types import SimpleNamespace

import pytest

from edgegpt.commands.console import progress, stdout, titled_table, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Return a function that replaces stderr by a terminal."""

    def put() -> Terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return put


def test_a_terminal_shows_what_is_done_and_how_much_of_it(terminal) -> None:
    stderr = terminal()
    with progress() as report:
        report("building [x] of y", 3, 8)
    shown = stderr.getvalue()
    assert "building [x] of y" in shown
    assert "3/8" in shown


def test_a_terminal_shows_the_time_left_once_it_can_be_told(terminal) -> None:
    stderr = terminal()
    with progress() as report:
        report("writing", 0, 4)
    assert "-:--:--" in stderr.getvalue()
    stderr = terminal()
    with progress() as report:
        for done in range(3):
            report("writing", done, 4)
    assert "-:--:--" not in stderr.getvalue().rpartition("2/4")[2]


def test_an_activity_of_unknown_length_follows_one_of_known_length(terminal) -> None:
    stderr = terminal()
    with progress() as report:
        report("writing", 4, 4)
        report("proving", 0, 0)
    last = stderr.getvalue().rpartition("proving")[2]
    assert "4/4" not in last
    assert "0/" not in last


def test_a_terminal_shows_what_is_waited_for_and_what_comes_then(terminal) -> None:
    stderr = terminal()
    with waiting("opening [b]"):
        pass
    assert "opening [b]" in stderr.getvalue()
    with waiting("loading PyTorch") as tell:
        tell("tracing [the graph]")
    assert "tracing [the graph]" in stderr.getvalue()


def test_a_terminal_shows_what_the_runtime_logs_meanwhile(terminal) -> None:
    stderr, logger = terminal(), logging.getLogger("edgegpt.runtime.engines")
    with progress() as report:
        report("verifying", 1, 8)
        logger.info("building %s", "decoder[1]")
        logger.debug("a detail")
    logger.info("too late")
    shown = stderr.getvalue()
    assert "verifying" in shown
    assert "building decoder[1]" in shown
    assert "detail" not in shown
    assert "late" not in shown


def test_elsewhere_a_short_wait_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("a while") as tell:
        tell("still building")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_elsewhere_each_stage_is_a_line_and_a_long_one_tells_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 1.0, 2.0, 40.0, 40.0, 41.0, 100.0, 100.0])
    own = SimpleNamespace(monotonic=lambda: next(clock))  # other threads have theirs
    monkeypatch.setattr("edgegpt.commands.console.time", own)
    with progress() as report:
        for done in range(4):
            report("building", done, 8)
        report("proving", 0, 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "     1 s  building",
        "    40 s  building: 2 of 8",
        "   100 s  proving",
    ]


def test_elsewhere_a_command_of_less_than_a_second_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegpt.commands.console.SILENT", 60.0)  # so long on a slow machine
    with progress() as report:
        report("loading", 0, 0)
        report("building", 0, 0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("edgegpt.commands.console.SILENT", 0.01)
    with progress() as report:
        report("loading", 0, 0)
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):  # the silence
                thread.join()
    assert capsys.readouterr().err == "     0 s  loading\n"


def test_a_title_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = titled_table("decoder [draft] of a bundle")
    table.add_column("a heading that is wide enough")
    table.add_row("1")
    stdout().print(table)
    assert "decoder [draft] of a bundle" in capsys.readouterr().out
