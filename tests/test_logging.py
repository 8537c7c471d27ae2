"""The logger "edgegpt": silent by default; on request it reports what an engineer looks for."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import edgegpt
from edgegpt.cli import main

LOGGER = logging.getLogger("edgegpt")


@pytest.fixture
def generate(small_bundle: Path, capsys: pytest.CaptureFixture[str]):
    """Return a function that generates, and returns its output on stdout and on stderr."""

    def run(*options: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            main([*options, "generate", str(small_bundle), "--prompt", "The", "-s", "1"])
        assert not stop.value.code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_nothing_is_told_unless_it_is_asked_for(generate) -> None:
    text, told = generate()
    assert len(told.splitlines()) == 1  # how fast it was
    assert generate("-v")[0] == text


def test_once_verbose_tells_which_engine_was_chosen_and_opened(generate) -> None:
    _, told = generate("-v")
    assert "auto is cpu; installed: onnxruntime" in told
    assert "opened decoder.ort on onnxruntime" in told
    assert "a cache of" not in told


def test_twice_verbose_tells_the_cache_too(generate) -> None:
    _, told = generate("-vv")
    assert "opened decoder.ort on onnxruntime" in told
    assert "for 1 row of 32 tokens" in told


def test_a_command_leaves_logging_as_it_was(generate) -> None:
    before = list(LOGGER.handlers), LOGGER.level
    generate("-vv")
    assert (LOGGER.handlers, LOGGER.level) == before


def test_a_step_of_decoding_logs_nothing(
    small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with edgegpt.load(small_bundle) as model, caplog.at_level(logging.DEBUG, "edgegpt"):
        counts = []
        for tokens in (2, 20):
            caplog.clear()
            model.generate("The", max_new_tokens=tokens)
            counts.append(len(caplog.records))
    assert counts[0] == counts[1] > 0


def test_a_program_that_set_nothing_up_sees_nothing() -> None:
    code = (
        "import edgegpt.runtime, logging\n"
        "logging.getLogger('edgegpt.runtime.upgrade').warning('no faster engine')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
