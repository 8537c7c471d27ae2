"""A better engine takes over between two generations, and only after it was proved."""

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.errors import EdgeGPTWarning, EngineError
from edgegpt.runtime.upgrade import Upgrade, proving_command

SECONDS = 30.0


class Closing(NullEngine):
    """Notes that it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def better() -> Closing:
    return Closing(lambda ids: np.ones(5, dtype=np.float32), 5)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def started() -> Iterator[list[Upgrade]]:
    """Upgrades that a test has started; whatever is left of them is cancelled."""
    upgrades: list[Upgrade] = []
    yield upgrades
    for upgrade in upgrades:
        upgrade.cancel()


def test_nothing_is_taken_before_the_process_has_ended_well(
    tmp_path: Path, better: Closing, started: list[Upgrade]
):
    flag = tmp_path / "proved"
    code = f"import time, pathlib\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.02)"
    upgrade = Upgrade(python(code), lambda: better)
    started.append(upgrade)
    assert not upgrade.wait(0.3)
    assert upgrade.take() is None
    flag.touch()
    assert upgrade.wait(SECONDS)
    assert upgrade.take() is better
    assert upgrade.take() is None  # a single time
    upgrade.cancel()
    assert not better.closed  # it belongs to whoever took it


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(1)", "its results were wrong"),
        ("raise SystemExit('error: no GPU here')", "error: no GPU here"),
    ],
)
def test_an_engine_that_was_not_proved_is_never_opened(
    code: str, told: str, started: list[Upgrade]
):
    opened = []
    upgrade = Upgrade(python(code), lambda: opened.append(1))
    started.append(upgrade)
    assert upgrade.wait(SECONDS)
    with pytest.warns(EdgeGPTWarning, match=told):
        assert upgrade.take() is None
    assert upgrade.take() is None  # told once
    assert not opened


def test_an_engine_that_does_not_open_leaves_the_old_one_at_work(started: list[Upgrade]):
    def opener() -> Closing:
        raise EngineError("the plan is for another GPU")

    upgrade = Upgrade(python(""), opener)
    started.append(upgrade)
    assert upgrade.wait(SECONDS)
    with pytest.warns(EdgeGPTWarning, match="another GPU"):
        assert upgrade.take() is None


def test_cancelling_stops_the_process_and_is_quiet(better: Closing):
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upgrade = Upgrade(python("import time; time.sleep(600)"), lambda: better)
        upgrade.cancel()
    assert time.monotonic() - begin < SECONDS
    assert upgrade.take() is None


def test_cancelling_closes_an_engine_that_nobody_took(better: Closing):
    upgrade = Upgrade(python(""), lambda: better)
    assert upgrade.wait(SECONDS)
    upgrade.cancel()
    assert better.closed


def test_the_command_verifies_the_bundle_on_the_backend(small_bundle: Path):
    from edgegpt.runtime.bundle import Bundle

    command = proving_command(Bundle.open(small_bundle), "tensorrt-rtx")
    assert command[1:4] == ["-m", "edgegpt", "verify"]
    assert Path(command[4]) == small_bundle.absolute()
    assert command[5:7] == ["--backend", "tensorrt-rtx"]
